//! Judges the feed once a second, from the counters of the run.
//!
//! What holds: conditions of the feed are those of the owner. A host that loses the lease no longer reports them, and
//! begins anew when it is the owner again.

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
    lag::{Growth, LagWatch},
    share::{Evidence, Least, ShareCounts, ShareWatch},
    silence::{FeedReading, Silence, SilenceWatch},
};
use crate::{
    conditions::Conditions,
    monitor::{Phase, Role},
    stats::Stats,
};
use tickhound_core::{
    condition::ConditionCode,
    config::HealthConfig,
    session::{Calendar, Sessions},
    wall::now_ms,
};

const NANOS_PER_MILLI: u64 = 1_000_000;

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

/// What the conditions of a feed are judged by.
pub struct FeedLimits {
    /// The limits of the configuration.
    pub health: HealthConfig,
    /// The key of the stream, for messages.
    pub stream: String,
    /// The calendars. Without any, nobody knows when a feed should be silent.
    pub sessions: Sessions,
}

impl FeedLimits {
    /// For how long a session has been open, ms; `None` if none is.
    fn open_for_ms(&self) -> Option<u64> {
        let now_ns = now_ms() * NANOS_PER_MILLI;
        self.sessions.open_since(now_ns).map(|since| now_ns.saturating_sub(since) / NANOS_PER_MILLI)
    }

    /// The names of the calendars, for messages.
    fn calendars(&self) -> String {
        let names: Vec<&str> = self.sessions.calendars().into_iter().map(Calendar::name).collect();
        names.join(", ")
    }
}

/// Judges the feed every second, for ever.
pub async fn watch_feed(stats: Arc<Stats>, limits: FeedLimits) {
    let began = Instant::now();
    let mut timer = interval(EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = FeedWatch::new(&limits.health, &stats);
    loop {
        timer.tick().await;
        match (stats.phase(), stats.monitor.role()) {
            (Phase::Processing, _) => watch.observe(&stats, &limits, began.elapsed()),
            (_, Role::Standby) => {
                let because = "another host is the owner, and judges the feed";
                OF_FEED.into_iter().for_each(|code| stats.conditions.end_all(code, str::is_empty, because));
                watch = FeedWatch::new(&limits.health, &stats);
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
    off_session: ShareWatch,
    silence: SilenceWatch,
    lag: LagWatch,
    /// How many seconds ticks have come outside of every session, while none was open.
    after_hours_s: u64,
}

impl FeedWatch {
    /// Observes what is counted from now on.
    fn new(limits: &HealthConfig, stats: &Stats) -> Self {
        let FeedCounts { dead, raised, volume, off_session } = FeedCounts::of(stats);
        let of_ticks = |share, before| ShareWatch::new(share, TICKS_LEAST, before);
        Self {
            dead: ShareWatch::new(limits.dead_share, DEAD_LEAST, dead),
            raised: of_ticks(limits.repaired_share, raised),
            volume: of_ticks(limits.repaired_share, volume),
            off_session: of_ticks(limits.off_session_share, off_session),
            silence: SilenceWatch::new(limits.silent_after_s * 1000, raised.all),
            lag: LagWatch::default(),
            after_hours_s: 0,
        }
    }

    /// Begins to measure times anew: the host does not read at present.
    fn interrupt(&mut self) {
        self.silence.interrupt();
        self.lag = LagWatch::default();
    }

    /// Observes a second; `at` is a clock that never goes back.
    fn observe(&mut self, stats: &Stats, limits: &FeedLimits, at: Duration) {
        let (monitor, conditions) = (&stats.monitor, &stats.conditions);
        let FeedCounts { dead, raised, volume, off_session } = FeedCounts::of(stats);
        let (ticks, entries) = (raised.all, dead.all);
        let open_for_ms = limits.open_for_ms();

        let dead = self.dead.observe(dead);
        let dead = dead.map(|shown| (dead_text(shown, &monitor.dead_reason()), shown.total));
        update(conditions, ConditionCode::DeadLetters, dead);
        let raised = self.raised.observe(raised).map(|shown| (raised_text(shown), shown.total));
        update(conditions, ConditionCode::TimesRaised, raised);
        let volume = self.volume.observe(volume).map(|shown| (volume_text(shown), shown.total));
        update(conditions, ConditionCode::VolumeRepaired, volume);
        let off_session = self.off_session.observe(off_session);
        let off_session = self.outside_of_hours(off_session, open_for_ms.is_some());
        let off_session = off_session.map(|shown| (off_session_text(shown, limits), shown.total));
        update(conditions, ConditionCode::OffSession, off_session);

        let in_flight = monitor.has_in_flight();
        let reading = FeedReading { at_ms: at.as_millis() as u64, ticks, entries, in_flight, open_for_ms };
        let silence = self.silence.observe(reading).map(|shown| (silence_text(shown, limits), 0));
        update(conditions, ConditionCode::SilentFeed, silence);
        let growth = self.lag.observe(monitor.lag_ms()).map(|shown| (growth_text(shown), 0));
        update(conditions, ConditionCode::LagGrowing, growth);
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

/// The counters of a run behind the shares.
struct FeedCounts {
    /// Of entries.
    dead: ShareCounts,
    /// Of ticks, as are the others.
    raised: ShareCounts,
    volume: ShareCounts,
    off_session: ShareCounts,
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
            off_session: of_ticks(&monitor.off_session),
        }
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

fn off_session_text(shown: Evidence, limits: &FeedLimits) -> String {
    format!(
        "{} are outside of the sessions of their calendar ({}): check [session] and input.timezone",
        shown.share_of("ticks"),
        limits.calendars()
    )
}

fn silence_text(silence: Silence, limits: &FeedLimits) -> String {
    let Silence { for_ms, last_tick_ago_ms, entries } = silence;
    let (calendars, stream) = (limits.calendars(), &limits.stream);
    let since = match last_tick_ago_ms {
        Some(ago_ms) => format!("the last tick came {} s ago", ago_ms / 1000),
        None => format!("no tick has come since this host reads it, for {} s", for_ms / 1000),
    };
    let cure = match entries {
        0 => format!("check that the producer runs, and publishes to {stream}"),
        _ => format!("{entries} entries have come since, none with a tick; `tickhound dead list` may say why"),
    };
    format!("the feed is silent in session hours ({calendars}): {since}; {cure}")
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
