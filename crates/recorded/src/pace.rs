//! When each tick of a recording is due.

use std::time::Duration;

/// The longest time between two ticks that is waited for, ns: nights, weekends and halts are skipped.
const PAUSE_MAX_NS: i64 = 30 * 60 * 1_000_000_000;

/// How fast ticks are published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as the receiver accepts them.
    Max,
    /// At this number of ticks per second.
    Rate(f64),
    /// At this multiple of the recorded speed.
    Speed(f64),
}

/// Parses a `--speed`: a number, with or without a final `x`, or `max`.
///
/// # Errors
/// What was expected.
pub fn speed(text: &str) -> Result<Pace, String> {
    if text == "max" {
        return Ok(Pace::Max);
    }
    let number = text.strip_suffix('x').unwrap_or(text);
    positive(number).map(Pace::Speed).map_err(|_| "expected a number above 0, such as 10, or max".into())
}

/// Parses a number above 0.
///
/// # Errors
/// What was expected.
pub fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("expected a number above 0".into()),
    }
}

/// Computes for each tick in turn how long after the first it is due.
#[derive(Debug)]
pub struct Pacer {
    pace: Pace,
    ticks: u64,
    /// The time of the latest tick that had one, ns.
    last: Option<i64>,
    /// The market time that has passed since the first tick, without long pauses, ns.
    passed: i64,
}

impl Pacer {
    /// A pacer before the first tick.
    pub fn new(pace: Pace) -> Self {
        Self { pace, ticks: 0, last: None, passed: 0 }
    }

    /// How long after the first tick the next one, whose recorded time is `time`, is due. Rates apply to the whole run, so
    /// that a tick which is published late does not delay the others.
    pub fn due(&mut self, time: Option<i64>) -> Duration {
        let index = self.ticks;
        self.ticks += 1;
        match self.pace {
            Pace::Max => Duration::ZERO,
            Pace::Rate(rate) => saturating_seconds(index as f64 / rate),
            Pace::Speed(speed) => {
                if let Some(time) = time {
                    let step = time.saturating_sub(self.last.unwrap_or(time));
                    if (0..=PAUSE_MAX_NS).contains(&step) {
                        self.passed += step;
                    }
                    // After a time that goes back, the next step is counted from the latest time.
                    self.last = Some(if step < 0 { time - step } else { time });
                }
                saturating_seconds(self.passed as f64 / 1e9 / speed)
            }
        }
    }
}

fn saturating_seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn a_rate_is_kept_without_drift() {
        let mut pacer = Pacer::new(Pace::Rate(3000.0));
        let due: Vec<_> = (0..9001).map(|_| pacer.due(None)).collect();
        assert_eq!((due[0], due[3000], due[9000]), (Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3)));
    }

    #[test]
    fn a_speed_follows_the_recorded_times() {
        let mut pacer = Pacer::new(Pace::Speed(2.0));
        let times = [Some(100 * S), Some(104 * S), None, Some(103 * S), Some(106 * S)];
        let due: Vec<_> = times.into_iter().map(|time| pacer.due(time).as_secs_f64()).collect();
        assert_eq!(due, [0.0, 2.0, 2.0, 2.0, 3.0]);
    }

    #[test]
    fn a_night_is_not_waited_for() {
        let mut pacer = Pacer::new(Pace::Speed(1.0));
        let due = [0, 10, 10 + 64_000, 15 + 64_000].map(|seconds| pacer.due(Some(seconds * S)).as_secs());
        assert_eq!(due, [0, 10, 10, 15]);
    }

    #[test]
    fn speeds_are_read_as_people_write_them() {
        assert_eq!(speed("max"), Ok(Pace::Max));
        assert_eq!(speed("2.5x"), Ok(Pace::Speed(2.5)));
        for text in ["0", "-1", "nan", "inf", "fast", ""] {
            assert!(speed(text).is_err(), "{text}");
        }
    }
}
