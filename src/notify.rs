//! Sends notifications of alerts, and of the host's own trouble: webhooks, Slack, Discord, Telegram.
//!
//! A channel reads the alerts stream like any other consumer, in a thread and on a connection of its own, from a
//! position of its own. So no receiver can hold up the flow, whatever it does: the engine does not know that there are
//! channels.
//!
//! What holds:
//! - An alert is in at most one message of a channel, over kills, restarts and failovers. Only a message without an
//!   answer is sent again by the process that sent it, as it is and under the same key.
//! - An alert that a channel wants is sent, or is counted in a message that says where to read it: none is silently
//!   lost.
//! - Secrets stay in `secret` and in the request.

mod answer;
mod attempt;
mod channel;
mod check;
mod filter;
mod health;
mod message;
mod muting;
mod pacing;
mod sanitize;
mod secret;
mod shown;
mod webhook;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tracing::{error, info, warn};

use self::{
    answer::AttemptOutcome,
    channel::{Channel, ChannelStop, Settings},
    message::{Notification, NotificationKind, Style},
    secret::Secrets,
    shown::ShownAlerts,
    webhook::Request,
};
pub(crate) use self::{
    check::{ChannelSummary, check},
    muting::{MuteEnd, MuteError, mute, mutes, unmute, unmute_all},
};
use tickhound_core::{
    condition::ConditionCode,
    config::{LoadedConfig, NotifyConfig},
};
use tickhound_engine::{conditions::Conditions, plugin::Reload};
use tickhound_redis::notification_position::{ChannelPosition, ChannelState, Omissions};

/// The longest wait at the start until new channels know where they begin, so that they miss none of its alerts.
const READY_MAX: Duration = Duration::from_secs(1);

/// The longest wait at the end for messages that are being sent, beyond the time that a request may take.
const FINISH_MAX: Duration = Duration::from_secs(2);

/// How often to check whether the positions of removed channels may be deleted.
const CLEANUP_EVERY: Duration = Duration::from_secs(1);

/// All channels of a host.
#[derive(Clone)]
pub(crate) struct Notifier {
    settings: Arc<Settings>,
    threads: Arc<Mutex<Threads>>,
}

#[derive(Default)]
struct Threads {
    channels: Vec<ChannelThread>,
    /// Deletes the positions of removed channels.
    cleanup: Option<StoppableThread>,
}

struct ChannelThread {
    config: NotifyConfig,
    thread: StoppableThread,
}

struct StoppableThread {
    stop: mpsc::Sender<ChannelStop>,
    handle: JoinHandle<()>,
}

impl Notifier {
    /// Starts the channels of the configuration.
    ///
    /// # Errors
    /// When a channel can't be used as it is configured, or the system gives no thread.
    pub(crate) fn start(loaded: &LoadedConfig, conditions: &Conditions) -> Result<Self> {
        for ChannelSummary { name, receiver, warnings } in check(loaded)? {
            info!(event = "notification_channel_started", channel = %name, "sending alerts to {receiver}");
            for warning in &warnings {
                warn!(event = "notification_channel_warning", channel = %name, "{warning}");
            }
        }
        let alerts = &loaded.config.alerts;
        let settings = Settings {
            redis: loaded.config.stream.clone(),
            streams: [alerts.stream.clone(), alerts.shadow_stream.clone()],
            zone: loaded.config.display_zone()?,
            server: loaded.config.server.clone(),
            conditions: conditions.clone(),
            market: Mutex::new(loaded.market.clone()),
        };
        let notifier = Self { settings: Arc::new(settings), threads: Arc::default() };
        let ready = notifier.apply(&loaded.config.notify)?;
        let _ = ready.recv_timeout(READY_MAX);
        Ok(notifier)
    }

    /// Applies changes of the configuration, for ever.
    pub(crate) async fn follow(self, mut reloads: watch::Receiver<Reload>) {
        while reloads.changed().await.is_ok() {
            let (channels, market) = {
                let generation = &reloads.borrow_and_update().generation;
                (generation.notify.clone(), generation.market.clone())
            };
            *lock(&self.settings.market) = market;
            if let Err(error) = self.apply(&channels) {
                error!(
                    event = "notification_change_failed",
                    error = %format!("{error:#}"),
                    "failed to apply the change of [[notify]]"
                );
            }
        }
    }

    /// Starts and stops channels so that exactly these run. The receiver is closed once each knows where it begins.
    fn apply(&self, configured: &[NotifyConfig]) -> Result<mpsc::Receiver<()>> {
        let mut threads = lock(&self.threads);
        let (ready, is_ready) = mpsc::channel();
        let wanted: Vec<&NotifyConfig> = configured.iter().filter(|channel| channel.enabled).collect();
        let (unchanged, mut ending): (Vec<_>, Vec<_>) =
            threads.channels.drain(..).partition(|running| wanted.contains(&&running.config));
        threads.channels = unchanged;
        for running in &ending {
            let _ = running.thread.stop.send(ChannelStop::Now);
        }
        for config in wanted {
            if threads.channels.iter().any(|running| running.config == *config) {
                continue;
            }
            let same = ending.iter().position(|running| running.config.name == config.name);
            let predecessor = same.map(|index| ending.swap_remove(index).thread.handle);
            threads.channels.push(self.start_channel(config, predecessor, ready.clone())?);
        }
        let mut ending: Vec<JoinHandle<()>> = ending.into_iter().map(|running| running.thread.handle).collect();
        if let Some(cleanup) = threads.cleanup.take() {
            let _ = cleanup.stop.send(ChannelStop::Now);
            ending.push(cleanup.handle);
        }
        threads.cleanup = Some(self.start_cleanup(configured, ending)?);
        Ok(is_ready)
    }

    fn start_channel(
        &self,
        config: &NotifyConfig,
        predecessor: Option<JoinHandle<()>>,
        ready: mpsc::Sender<()>,
    ) -> Result<ChannelThread> {
        let (stop, stopped) = mpsc::channel();
        let channel = Channel::new(config, &self.settings, stopped)?;
        let handle = spawn("notify", move || {
            // The predecessor may be in the middle of a message.
            let _ = predecessor.map(JoinHandle::join);
            channel.run(ready);
        })?;
        Ok(ChannelThread { config: config.clone(), thread: StoppableThread { stop, handle } })
    }

    /// Starts the thread that deletes the positions of channels that are not configured, once `ending` have ended.
    fn start_cleanup(&self, configured: &[NotifyConfig], ending: Vec<JoinHandle<()>>) -> Result<StoppableThread> {
        let (stop, stopped) = mpsc::channel();
        let mut position = ChannelPosition::new(&self.settings.redis, "")?;
        let names: Vec<String> = configured.iter().map(|channel| channel.name.clone()).collect();
        let enabled: Vec<NotifyConfig> = configured.iter().filter(|channel| channel.enabled).cloned().collect();
        let conditions = self.settings.conditions.clone();
        let handle = spawn("notify-tidy", move || {
            ending.into_iter().for_each(|handle| drop(handle.join()));
            // A channel that is only changed continues with its condition.
            let is_gone = |name: &str| enabled.iter().all(|channel| channel.name != name);
            conditions.end_all(ConditionCode::ChannelFailing, is_gone, "the notification channel was removed");
            while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(CLEANUP_EVERY) {
                // `None`: another host owns the partition, or Redis can't be reached.
                if let Ok(Some(dropped)) = position.remove_other_states(&names) {
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
        Ok(StoppableThread { stop, handle })
    }

    /// Lets each channel send the alerts that are there, and waits as long as a request may take. `owned` = this host
    /// owned the partition until now.
    pub(crate) fn finish(&self, owned: bool) {
        let Threads { channels, cleanup } = std::mem::take(&mut *lock(&self.threads));
        let longest = channels.iter().map(|running| running.config.timeout_ms).max();
        let until = Instant::now() + FINISH_MAX + Duration::from_millis(longest.unwrap_or(0));
        // Dropped, its sender ends the thread.
        drop(cleanup);
        for running in &channels {
            let _ = running.thread.stop.send(ChannelStop::Finish { owned });
        }
        // Each thread that waits for a channel holds a sender; without any left, all channels have ended.
        let (done, all_done) = mpsc::channel::<()>();
        let mut names = Vec::new();
        for ChannelThread { config, thread } in channels {
            let done = done.clone();
            names.push(config.name);
            let _ = spawn("notify-end", move || {
                let _ = thread.handle.join();
                drop(done);
            });
        }
        drop(done);
        if let Err(mpsc::RecvTimeoutError::Timeout) =
            all_done.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            warn!(
                event = "notification_unfinished",
                channels = names.join(", "),
                "a notification is still being sent; the next start reports alerts that may not have been delivered"
            );
        }
    }
}

/// The recorded state of a channel.
pub(crate) struct ChannelStatus {
    pub(crate) name: String,
    pub(crate) state: ChannelState,
    /// Alerts behind its position.
    pub(crate) behind: u64,
}

/// Sends a message that says that it is a test, and returns the address at which it arrived.
///
/// # Errors
/// Why it did not arrive.
pub(crate) fn send_test(loaded: &LoadedConfig, config: &NotifyConfig) -> Result<String> {
    let agent = webhook::agent(config)?;
    let secrets = Secrets::read(config)?;
    let stream = loaded.config.alerts.stream.clone();
    let message = Notification {
        shown: ShownAlerts::default(),
        fresh: 0,
        unreported: Omissions::default(),
        stream,
        group: loaded.config.stream.group.clone(),
        kind: NotificationKind::Test,
    };
    let key = format!("{}/test/{:x}", config.name, rand::random::<u64>());
    let (zone, server) = (loaded.config.display_zone()?, &loaded.config.server);
    let style = Style { kind: config.kind, template: "", zone: &zone, server };
    let body = webhook::body(config, &message, &key, &style);
    let outcome = webhook::attempt(&agent, &secrets, &Request { key, body });
    let reason = match outcome {
        AttemptOutcome::Delivered => return Ok(secrets.address),
        AttemptOutcome::Later(reason, _) | AttemptOutcome::Rejected(reason) | AttemptOutcome::Closed(reason) => reason,
        AttemptOutcome::Unknown(reason) => format!("{reason}; the message may have arrived nevertheless"),
    };
    bail!("{}: {reason}", secrets.address)
}

/// The state of each channel that Redis has.
///
/// # Errors
/// A sentence on why the server can't be asked.
pub(crate) fn states(loaded: &LoadedConfig) -> Result<Vec<ChannelStatus>> {
    let mut position = ChannelPosition::new(&loaded.config.stream, "")?;
    let address = loaded.config.stream.address();
    let mut ask = || -> Result<_> {
        let mut states = Vec::new();
        for (name, state) in position.all()? {
            let added = position.extent(&state.stream)?.added;
            let behind = added.saturating_sub(state.index);
            states.push(ChannelStatus { name, state, behind });
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
