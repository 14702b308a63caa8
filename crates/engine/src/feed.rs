//! Judges the feed once a second, from the counters of the run.
//!
//! What holds: conditions of the feed are those of the owner. A host that loses the lease no longer reports them, and
//! begins anew when it is the owner again.

mod hours;
mod lag;
mod share;
mod silence;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use self::{
    hours::{HoursReading, HoursVerdict, HoursWatch},
    lag::{Growth, LagWatch},
    share::{Evidence, Least, ShareCounts, ShareWatch},
    silence::Silence,
};
use crate::{
    conditions::Conditions,
    monitor::{Phase, Role},
    stats::Stats,
};
use tickhound_core::{condition::ConditionCode, config::HealthConfig, session::Sessions, wall::now_ms};

const NANOS_PER_MILLI: u64 = 1_000_000;

const EVERY: Duration = Duration::from_secs(1);

/// The fewest dead-lettered entries. If all are, one is enough: it may be the first one that a new producer has sent.
const DEAD_LEAST: Least = Least { of_all: 1, of_some: 5 };

/// The fewest affected ticks: a slow feed has few in a minute, and single ones are repaired in every feed.
const TICKS_LEAST: Least = Least { of_all: 20, of_some: 20 };

/// The conditions that this file reports.
const OF_FEED: [ConditionCode; 6] = [
    ConditionCode::DeadLetters,
    ConditionCode::SilentFeed,
    ConditionCode::TimesRaised,
    ConditionCode::VolumeRepaired,
    ConditionCode::OffSession,
    ConditionCode::LagGrowing,
];

/// What the conditions of a feed are judged by.
pub struct FeedLimits {
    /// The limits of the configuration.
    pub health: HealthConfig,
    /// The key of the stream, for messages.
    pub stream: String,
    /// The calendars. Without any, nobody knows when a feed should be silent.
    pub sessions: Sessions,
}

/// Judges the feed every second, for ever.
pub async fn watch_feed(stats: Arc<Stats>, limits: FeedLimits) {
    let began = Instant::now();
    let mut timer = interval(EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = FeedWatch::new(&limits, &stats);
    loop {
        timer.tick().await;
        match (stats.phase(), stats.monitor.role()) {
            (Phase::Processing, _) => watch.observe(&stats, &limits, began.elapsed()),
            (_, Role::Standby) => {
                let because = "another host is the owner, and judges the feed";
                OF_FEED.into_iter().for_each(|code| stats.conditions.end_all(code, |_| true, because));
                watch = FeedWatch::new(&limits, &stats);
            }
            // Without a connection nothing is known of the feed, so what holds goes on.
            (_, Role::Owner | Role::Connecting) => watch.interrupt(),
        }
    }
}

/// The feed since this host has been the owner.
struct FeedWatch {
    dead: ShareWatch,
    raised: ShareWatch,
    volume: ShareWatch,
    /// One for each named calendar.
    hours: Vec<HoursWatch>,
    lag: LagWatch,
}

impl FeedWatch {
    /// Observes what is counted from now on.
    fn new(feed: &FeedLimits, stats: &Stats) -> Self {
        let limits = &feed.health;
        let FeedCounts { dead, raised, volume } = FeedCounts::of(stats);
        let of_ticks = |share, before| ShareWatch::new(share, TICKS_LEAST, before);
        Self {
            dead: ShareWatch::new(limits.dead_share, DEAD_LEAST, dead),
            raised: of_ticks(limits.repaired_share, raised),
            volume: of_ticks(limits.repaired_share, volume),
            hours: HoursWatch::all(&feed.sessions, limits, stats),
            lag: LagWatch::default(),
        }
    }

    /// Begins to measure times anew: the host does not read at present.
    fn interrupt(&mut self) {
        self.hours.iter_mut().for_each(HoursWatch::interrupt);
        self.lag = LagWatch::default();
    }

    /// Observes a second; `at` is a clock that never goes back.
    fn observe(&mut self, stats: &Stats, limits: &FeedLimits, at: Duration) {
        let (monitor, conditions) = (&stats.monitor, &stats.conditions);
        let FeedCounts { dead, raised, volume } = FeedCounts::of(stats);

        let dead = self.dead.observe(dead);
        let dead = dead.map(|shown| (dead_text(shown, &monitor.dead_reason()), shown.total));
        update(conditions, (ConditionCode::DeadLetters, ""), dead);
        let raised = self.raised.observe(raised).map(|shown| (raised_text(shown), shown.total));
        update(conditions, (ConditionCode::TimesRaised, ""), raised);
        let volume = self.volume.observe(volume).map(|shown| (volume_text(shown), shown.total));
        update(conditions, (ConditionCode::VolumeRepaired, ""), volume);
        self.observe_hours(stats, limits, at);
        let growth = self.lag.observe(monitor.lag_ms()).map(|shown| (growth_text(shown), 0));
        update(conditions, (ConditionCode::LagGrowing, ""), growth);
    }

    /// Judges the symbols of each calendar; a condition has the name of its calendar if there are several.
    fn observe_hours(&mut self, stats: &Stats, limits: &FeedLimits, at: Duration) {
        let reading = HoursReading { at_ms: at.as_millis() as u64, now_ns: now_ms() * NANOS_PER_MILLI };
        let known = self.hours.iter().any(|watch| watch.has_symbols(stats));
        let several = self.hours.len() > 1;
        for (number, watch) in self.hours.iter_mut().enumerate() {
            let HoursVerdict { calendar, silence, outside } = watch.observe(reading, stats, !known && number == 0);
            let subject = if several { calendar } else { "" };
            let outside = outside.map(|shown| (off_session_text(shown, calendar), shown.total));
            update(&stats.conditions, (ConditionCode::OffSession, subject), outside);
            let silence = silence.map(|shown| (silence_text(shown, calendar, several, &limits.stream), 0));
            update(&stats.conditions, (ConditionCode::SilentFeed, subject), silence);
        }
    }
}

/// The counters of a run behind the shares.
struct FeedCounts {
    /// Of entries.
    dead: ShareCounts,
    /// Of ticks, as are the others.
    raised: ShareCounts,
    volume: ShareCounts,
}

impl FeedCounts {
    fn of(stats: &Stats) -> Self {
        let monitor = &stats.monitor;
        let ticks = stats.completed.load(Relaxed);
        let of_ticks = |affected: &AtomicU64| ShareCounts { affected: affected.load(Relaxed), all: ticks };
        Self {
            dead: ShareCounts { affected: monitor.dead_entries.load(Relaxed), all: monitor.entries.load(Relaxed) },
            raised: of_ticks(&monitor.out_of_order),
            volume: of_ticks(&monitor.volume),
        }
    }
}

/// Reports the condition of a subject with its text and count, or that it does not hold.
fn update(conditions: &Conditions, (code, subject): (ConditionCode, &str), holds: Option<(String, u64)>) {
    match holds {
        Some((text, count)) => conditions.report(code, subject, &text, count),
        None => conditions.end(code, subject),
    }
}

fn dead_text(shown: Evidence, reason: &str) -> String {
    format!(
        "{} {} dead-lettered: `tickhound dead list` lists them, `tickhound dead show` shows one. The newest reason: {reason}",
        shown.share_of("entries"),
        shown.was()
    )
}

fn raised_text(shown: Evidence) -> String {
    format!(
        "{} had a time before that of their symbol's last tick, and {} given that time: check the clock of the producer, \
         and that only one producer publishes a symbol",
        shown.share_of("ticks"),
        shown.was()
    )
}

fn volume_text(shown: Evidence) -> String {
    format!(
        "{} had a volume that can't be right, and {} repaired: check input.volume, and that only one producer publishes a \
         symbol",
        shown.share_of("ticks"),
        shown.was()
    )
}

fn off_session_text(shown: Evidence, calendar: &str) -> String {
    let are = if shown.affected == 1 { "is" } else { "are" };
    let share = shown.share_of("ticks");
    format!("{share} {are} outside of the sessions of their calendar ({calendar}): check [session] and input.timezone")
}

fn silence_text(silence: Silence, calendar: &str, is_one_of_several: bool, stream: &str) -> String {
    let Silence { for_ms, last_tick_ago_ms, entries } = silence;
    let whose = if is_one_of_several { " of the symbols with this calendar" } else { "" };
    let since = match last_tick_ago_ms {
        Some(ago_ms) => format!("the last tick{whose} came {} s ago", ago_ms / 1000),
        None => format!("no tick{whose} has come in the {} s since this host started reading", for_ms / 1000),
    };
    let cure = match entries {
        0 => format!("check that the producer runs, and publishes to {stream}"),
        1 => "1 entry came without a tick; `tickhound dead list` may say why".to_owned(),
        _ => format!("{entries} entries came without a tick; `tickhound dead list` may say why"),
    };
    format!("the feed is silent in session hours ({calendar}): {since}; {cure}")
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
