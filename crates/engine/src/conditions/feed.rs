//! Judges the feed once a second, from the counters of the run.
//!
//! What holds: conditions of the feed are those of the owner. A host that loses the lease no longer reports them, and
//! begins anew when it is the owner again.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    Conditions,
    lag::{Growth, LagWatch},
    share::{Evidence, Least, ShareWatch},
    silence::{FeedReading, Silence, SilenceWatch},
};
use crate::{
    monitor::{Phase, Role},
    stats::Stats,
};
use tickhound_core::{condition::ConditionCode, config::HealthConfig, wall::now_ms};

const EVERY: Duration = Duration::from_secs(1);

/// The fewest dead-lettered entries. If all are, one is enough: it may be the first one that a new producer has sent.
const DEAD_LEAST: Least = Least { of_all: 1, of_some: 5 };

/// The fewest affected ticks: a slow feed has few in a minute, and single ones are repaired in every feed.
const TICKS_LEAST: Least = Least { of_all: 20, of_some: 20 };

/// Feeds go on for a while when the last session has closed. Only if they do for this long, a calendar may be wrong.
const AFTER_HOURS: Duration = Duration::from_secs(3600);

/// The conditions that this file reports.
const OF_FEED: [ConditionCode; 6] = [
    ConditionCode::DeadLetters,
    ConditionCode::SilentFeed,
    ConditionCode::TimesRaised,
    ConditionCode::VolumeRepaired,
    ConditionCode::OffSession,
    ConditionCode::LagGrowing,
];

/// Since when at least one calendar has been open, ns since the Unix epoch, given the present; `None` if none is open, or
/// there is no calendar.
pub type OpenSince = Box<dyn Fn(u64) -> Option<u64> + Send>;

/// What the conditions of a feed are judged by.
pub struct FeedLimits {
    /// The limits of the configuration.
    pub health: HealthConfig,
    /// The key of the stream, for messages.
    pub stream: String,
    /// The hours of the sessions.
    pub open_since: OpenSince,
}

/// Judges the feed every second, for ever.
pub async fn watch_feed(stats: Arc<Stats>, limits: FeedLimits) {
    let began = Instant::now();
    let mut timer = interval(EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = FeedWatch::new(&limits.health);
    loop {
        timer.tick().await;
        match (stats.phase(), stats.monitor.role()) {
            (Phase::Processing, _) => watch.observe(&stats, &limits, began.elapsed()),
            (_, Role::Owner) => {}
            (_, Role::Standby | Role::Connecting) => {
                OF_FEED.into_iter().for_each(|code| stats.conditions.end(code, ""));
                watch = FeedWatch::new(&limits.health);
            }
        }
    }
}

/// The feed since this host has been the owner.
struct FeedWatch {
    dead: ShareWatch,
    raised: ShareWatch,
    volume: ShareWatch,
    off_session: ShareWatch,
    silence: SilenceWatch,
    lag: LagWatch,
    /// How many seconds ticks have come outside of every session, while none was open.
    after_hours_s: u64,
}

impl FeedWatch {
    fn new(limits: &HealthConfig) -> Self {
        let of_ticks = |share| ShareWatch::new(share, TICKS_LEAST);
        Self {
            dead: ShareWatch::new(limits.dead_share, DEAD_LEAST),
            raised: of_ticks(limits.repaired_share),
            volume: of_ticks(limits.repaired_share),
            off_session: of_ticks(limits.off_session_share),
            silence: SilenceWatch::new(limits.silent_after_s * 1000),
            lag: LagWatch::default(),
            after_hours_s: 0,
        }
    }

    /// Observes a second; `at` is a clock that never goes back.
    fn observe(&mut self, stats: &Stats, limits: &FeedLimits, at: Duration) {
        let (monitor, conditions) = (&stats.monitor, &stats.conditions);
        let (ticks, entries) = (stats.completed.load(Relaxed), monitor.entries.load(Relaxed));
        let now_ns = now_ms() * 1_000_000;
        let open_for_ms = (limits.open_since)(now_ns).map(|since| now_ns.saturating_sub(since) / 1_000_000);

        let dead = self.dead.observe(monitor.dead_entries.load(Relaxed), entries);
        let dead = dead.map(|shown| (dead_text(shown, &monitor.dead_reason()), shown.total));
        update(conditions, ConditionCode::DeadLetters, dead);

        let raised = self.raised.observe(monitor.out_of_order.load(Relaxed), ticks);
        update(conditions, ConditionCode::TimesRaised, raised.map(|shown| (raised_text(shown), shown.total)));
        let volume = self.volume.observe(monitor.volume.load(Relaxed), ticks);
        update(conditions, ConditionCode::VolumeRepaired, volume.map(|shown| (volume_text(shown), shown.total)));
        let off = self.off_session.observe(monitor.off_session.load(Relaxed), ticks);
        let off = self.outside_of_hours(off, open_for_ms.is_some());
        update(conditions, ConditionCode::OffSession, off.map(|shown| (off_session_text(shown), shown.total)));

        let lag_ms = monitor.lag_ms();
        let in_flight = monitor.has_in_flight();
        let reading = FeedReading { at_ms: at.as_millis() as u64, ticks, entries, in_flight, open_for_ms };
        let silence = self.silence.observe(reading);
        update(conditions, ConditionCode::SilentFeed, silence.map(|shown| (silence_text(shown, &limits.stream), 0)));
        let growth = self.lag.observe(lag_ms);
        update(conditions, ConditionCode::LagGrowing, growth.map(|shown| (growth_text(shown), 0)));
    }

    /// Ticks outside of every session while one is open have wrong times, or the calendar is wrong. While none is open,
    /// they are what a feed sends after hours, unless they go on for long.
    fn outside_of_hours(&mut self, shown: Option<Evidence>, is_open: bool) -> Option<Evidence> {
        match shown {
            Some(shown) if !is_open && shown.ago_s == 0 => self.after_hours_s += EVERY.as_secs(),
            Some(_) => {}
            None => self.after_hours_s = 0,
        }
        shown.filter(|_| is_open || self.after_hours_s > AFTER_HOURS.as_secs())
    }
}

/// Reports the condition with its text and count, or that it does not hold.
fn update(conditions: &Conditions, code: ConditionCode, holds: Option<(String, u64)>) {
    match holds {
        Some((text, count)) => conditions.report(code, "", &text, count),
        None => conditions.end(code, ""),
    }
}

fn dead_text(shown: Evidence, reason: &str) -> String {
    format!(
        "{} were dead-lettered: `tickhound dead list` lists them, `tickhound dead show` shows one. The newest reason: {reason}",
        shown.share_of("entries")
    )
}

fn raised_text(shown: Evidence) -> String {
    format!(
        "{} had a time before that of their symbol's last tick, and were given that time: check the clock of the producer, \
         and that only one producer publishes a symbol",
        shown.share_of("ticks")
    )
}

fn volume_text(shown: Evidence) -> String {
    format!(
        "{} had a volume that can't be right, and was repaired: check input.volume, and that only one producer publishes a \
         symbol",
        shown.share_of("ticks")
    )
}

fn off_session_text(shown: Evidence) -> String {
    format!("{} are outside of every session: check [session] and input.timezone", shown.share_of("ticks"))
}

fn silence_text(silence: Silence, stream: &str) -> String {
    let Silence { for_ms, had_ticks, entries } = silence;
    let seconds = for_ms / 1000;
    let what = if had_ticks {
        format!("the feed is silent: the last tick came {seconds} s ago, and a session is open")
    } else {
        format!(
            "the feed is silent: no tick has come in the {seconds} s since this host reads it, and a session is open"
        )
    };
    match entries {
        0 => format!("{what}. Check that the producer runs, and publishes to {stream}"),
        _ => format!("{what}. {entries} entries came since, and none has a tick: `tickhound dead list` may say why"),
    }
}

fn growth_text(growth: Growth) -> String {
    let Growth { before_ms, now_ms } = growth;
    format!(
        "the lag grows: it has risen from {:.1} s to {:.1} s within minutes, since entries arrive faster than they are \
         processed. `tickhound top` shows the busiest detector, and whether the workers are at their limit \
         (engine.workers)",
        before_ms as f64 / 1000.0,
        now_ms as f64 / 1000.0,
    )
}
