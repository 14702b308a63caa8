//! Tells people of alerts: webhooks, Slack, Discord, Telegram.
//!
//! A sink reads the alerts stream as any other consumer would, in a thread and on a connection of its own, from a
//! position of its own. So nothing that a receiver does or fails to do can hold up the flow: the engine does not
//! know that there are sinks.
//!
//! What holds:
//! - An alert is in at most one message that a sink sends, over kills, restarts and take-overs (`position`). Only a
//!   message without an answer is sent again by the process that sent it, as it was, under the same key.
//! - An alert that a sink wants is told, or is counted in a message that says where to find it: none is silently gone.
//! - Secrets stay in `secret` and in the request.

mod filter;
mod message;
mod pace;
mod secret;
mod sink;
mod webhook;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use jiff::tz::TimeZone;
use tokio::sync::watch;
use tracing::{error, info, warn};

pub(crate) use self::secret::{Finding, check};
use self::{
    message::{Look, Message},
    secret::Secrets,
    sink::Sink,
    webhook::{Outcome, Request},
};
use tickhound_core::{
    config::{LoadedConfig, NotifyConfig, StreamConfig},
    decode::time_zone,
};
use tickhound_engine::plugin::Reload;
use tickhound_redis::notified::{Owed, Position, State};

/// A start waits so long until it is known where new sinks begin, so that they miss none of its alerts.
const READY_MAX: Duration = Duration::from_secs(1);

/// An end waits so long, beyond what a request may take, for what is under way.
const FINISH_MAX: Duration = Duration::from_secs(2);

/// How often to look whether the states of sinks that are gone may be dropped.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// How a sink ends.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// Where it is: another one goes on in its place.
    Now,
    /// After what is there was told, if the partition was ours.
    Finish { owned: bool },
}

/// How each sink stands, for whoever reports; filled by the sinks after each message.
#[derive(Debug, Default)]
pub(crate) struct Stats(Mutex<BTreeMap<String, State>>);

impl Stats {
    /// State of each sink at work, by name. Its totals only ever rise, over restarts too.
    pub(crate) fn states(&self) -> BTreeMap<String, State> {
        lock(&self.0).clone()
    }

    fn set(&self, sink: &str, state: &State) {
        lock(&self.0).insert(sink.to_owned(), state.clone());
    }
}

/// All sinks of a host.
#[derive(Clone)]
pub(crate) struct Notifier {
    redis: Arc<StreamConfig>,
    /// Keys of the streams of alerts: of live detectors, and of shadows.
    streams: Arc<[String; 2]>,
    zone: TimeZone,
    stats: Arc<Stats>,
    running: Arc<Mutex<Vec<Running>>>,
}

struct Running {
    /// `None`: drops the states of sinks that are gone.
    config: Option<NotifyConfig>,
    stop: mpsc::Sender<Stop>,
    thread: JoinHandle<()>,
}

impl Notifier {
    /// Starts the sinks of the configuration.
    ///
    /// # Errors
    /// When one can't be used as it is configured, or the system gives no thread.
    pub(crate) fn start(loaded: &LoadedConfig) -> Result<Self> {
        for Finding { name, what, warnings } in check(loaded)? {
            info!(event = "notification_channel_started", sink = %name, "sending alerts to {what}");
            warnings.iter().for_each(|warning| {
                warn!(
                    event = "notification_channel_warning",
                    sink = %name,
                    "{warning}"
                )
            });
        }
        let alerts = &loaded.config.alerts;
        let notifier = Self {
            redis: Arc::new(loaded.config.stream.clone()),
            streams: Arc::new([alerts.stream.clone(), alerts.shadow_stream.clone()]),
            zone: time_zone(&loaded.config.input.timezone)?,
            stats: Arc::default(),
            running: Arc::default(),
        };
        let begun = notifier.apply(&loaded.config.notify)?;
        let _ = begun.recv_timeout(READY_MAX);
        Ok(notifier)
    }

    /// What is known of each sink.
    pub(crate) fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Takes up changes of the configuration, for ever.
    pub(crate) async fn follow(self, mut reloads: watch::Receiver<Reload>) {
        while reloads.changed().await.is_ok() {
            let sinks = reloads.borrow_and_update().generation.notify.clone();
            if let Err(error) = self.apply(&sinks) {
                error!(
                    event = "notification_change_failed",
                    error = %format!("{error:#}"),
                    "failed to apply the change of [[notify]]"
                );
            }
        }
    }

    /// Starts and stops sinks so that these are at work. What is returned is closed once each knows where it begins.
    fn apply(&self, sinks: &[NotifyConfig]) -> Result<mpsc::Receiver<()>> {
        let mut running = lock(&self.running);
        let (ready, begun) = mpsc::channel();
        let wanted: Vec<&NotifyConfig> = sinks.iter().filter(|sink| sink.enabled).collect();
        let is_kept = |running: &Running| running.config.as_ref().is_some_and(|config| wanted.contains(&config));
        let (kept, gone): (Vec<_>, Vec<_>) = running.drain(..).partition(is_kept);
        *running = kept;
        let mut before = Vec::new();
        for Running { config, stop, thread } in gone {
            let _ = stop.send(Stop::Now);
            lock(&self.stats.0).retain(|name, _| config.as_ref().is_none_or(|config| config.name != *name));
            before.push((config.map(|config| config.name), thread));
        }
        for config in wanted {
            if running.iter().any(|running| running.config.as_ref() == Some(config)) {
                continue;
            }
            let (stop, stopped) = mpsc::channel();
            let stream = &self.streams[usize::from(config.shadows)];
            let sink = Sink::new(config, &self.redis, stream, &self.zone, &self.stats, stopped)?;
            let same = before.iter().position(|(name, _)| name.as_ref() == Some(&config.name));
            let (before, ready) = (same.map(|index| before.swap_remove(index).1), ready.clone());
            let thread = spawn("notify", move || {
                // Its predecessor may be in the middle of a message.
                let _ = before.map(JoinHandle::join);
                sink.run(ready);
            })?;
            running.push(Running { config: Some(config.clone()), stop, thread });
        }
        let (stop, stopped) = mpsc::channel();
        let mut position = Position::new(&self.redis, "")?;
        let names: Vec<String> = sinks.iter().map(|sink| sink.name.clone()).collect();
        let thread = spawn("notify-tidy", move || {
            before.into_iter().for_each(|(_, thread)| drop(thread.join()));
            while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(TIDY_EVERY) {
                if let Ok(Some(dropped)) = position.tidy(&names) {
                    if dropped > 0 {
                        info!(
                            event = "notification_positions_removed",
                            dropped,
                            "removed the positions of notification channels that are no longer in the configuration"
                        );
                    }
                    return;
                }
            }
        })?;
        running.push(Running { config: None, stop, thread });
        Ok(begun)
    }

    /// Lets each sink tell what is there, and waits for it as long as a request may take. `owned`: the
    /// partition was ours until now.
    pub(crate) fn finish(&self, owned: bool) {
        let running = std::mem::take(&mut *lock(&self.running));
        let longest =
            running.iter().filter_map(|running| running.config.as_ref()).map(|config| config.timeout_ms).max();
        let until = Instant::now() + FINISH_MAX + Duration::from_millis(longest.unwrap_or(0));
        for Running { stop, .. } in &running {
            let _ = stop.send(Stop::Finish { owned });
        }
        let (done, all_done) = mpsc::channel::<()>();
        let mut names = Vec::new();
        for Running { config, thread, .. } in running {
            let (Some(config), done) = (config, done.clone()) else { continue };
            names.push(config.name);
            let _ = spawn("notify-end", move || {
                let _ = thread.join();
                drop(done);
            });
        }
        drop(done);
        if let Err(mpsc::RecvTimeoutError::Timeout) =
            all_done.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            warn!(
                event = "notification_unfinished",
                sinks = names.join(", "),
                "a notification is still being sent; the next start reports alerts that may not have been delivered"
            );
        }
    }
}

/// Sends a message that is clearly a test, and says what came of it.
///
/// # Errors
/// Why it did not arrive.
pub(crate) fn send_test(loaded: &LoadedConfig, config: &NotifyConfig) -> Result<String> {
    let agent = webhook::agent(config)?;
    let secrets = Secrets::of(config)?;
    let stream = loaded.config.alerts.stream.clone();
    let message = Message { shown: Vec::new(), fresh: 0, owed: Owed::default(), stream, test: true };
    let key = format!("{}/test/{:x}", config.name, rand::random::<u64>());
    let zone = time_zone(&loaded.config.input.timezone)?;
    let body = webhook::body(config, &message, &key, &Look { kind: config.kind, template: "", zone: &zone });
    let outcome = webhook::attempt(&agent, &secrets, &Request { key, body });
    let reason = match outcome {
        Outcome::Told => return Ok(secrets.address),
        Outcome::Later(reason, _) | Outcome::Refused(reason) | Outcome::Closed(reason) => reason,
        Outcome::Unknown(reason) => format!("{reason}; it may have arrived all the same"),
    };
    bail!("{}: {reason}", secrets.address)
}

/// How each sink stands, as Redis has it: its state, and how many alerts are after its position.
///
/// # Errors
/// A sentence on why the server can't be asked.
pub(crate) fn states(loaded: &LoadedConfig) -> Result<Vec<(String, State, u64)>> {
    let mut position = Position::new(&loaded.config.stream, "")?;
    let address = loaded.config.stream.address();
    let mut ask = || -> Result<_> {
        let mut states = Vec::new();
        for (name, state) in position.all()? {
            let added = position.extent(&state.stream)?.added;
            let behind = added.saturating_sub(state.index);
            states.push((name, state, behind));
        }
        Ok(states)
    };
    ask().with_context(|| format!("at {address}"))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.context("failed to start a thread of the notifier")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
