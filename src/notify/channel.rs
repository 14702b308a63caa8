//! One notification channel: a thread that waits for alerts, groups them, and sends them.
//!
//! What holds: each turn begins with the state that Redis has and ends with the state that Redis gets. So a turn may
//! end anywhere, with an error or with the process, and the next one continues from there.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::tz::TimeZone;
use tracing::{debug, error, info, warn};
use ureq::Agent;

use super::{
    answer::AttemptOutcome,
    attempt::{Action, Composed, Topic, Wait, count_muted, transition},
    filter::{Filter, Gathered, RECENT_MAX},
    health::{HealthNews, HealthWatch, reported_after},
    message::{Notification, NotificationKind, Style},
    pacing::{self, Backoff, Relapse},
    secret::Secrets,
    shown::ShownAlerts,
    webhook::{self, Request},
};
use tickhound_core::{
    condition::ConditionCode,
    config::{NotifyConfig, NotifyEvent, OnDoubt, ServerConfig, StreamConfig},
    market::Market,
};
use tickhound_engine::conditions::Conditions;
use tickhound_redis::notification_position::{
    AlertsExtent, ChannelPosition, ChannelReading, ChannelState, MessageInFlight, Omissions, is_before,
};
use tickhound_redis::{RecentIds, mutes::MutesInForce};

/// How often a standby checks whether it has become the owner.
const STANDBY_EVERY: Duration = Duration::from_millis(500);

/// What the next message must report goes with new alerts, or alone once this much time has passed since the last one.
const REPORT_AFTER_MS: u64 = 30_000;

/// A channel that can't use its position for this long is failing. A shorter outage of Redis is not its trouble.
const REDIS_LOST_AFTER: Duration = Duration::from_secs(30);

/// How often a channel that is told of the host's health looks whether something has changed.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

/// How a channel ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum ChannelStop {
    /// At once: another thread continues from its position.
    Now,
    /// After the alerts that are there were sent, if this host owned the partition.
    Finish { owned: bool },
}

/// What all channels of a host share.
pub(super) struct Settings {
    pub(super) redis: StreamConfig,
    /// Keys of the streams of alerts: of live detectors, and of shadows.
    pub(super) streams: [String; 2],
    pub(super) zone: TimeZone,
    /// Where the page is that links lead to.
    pub(super) server: ServerConfig,
    pub(super) conditions: Conditions,
    /// The market of the newest generation, which knows the underlyings of symbols.
    pub(super) market: Mutex<Arc<Market>>,
}

impl Settings {
    fn market(&self) -> Arc<Market> {
        self.market.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The stream that a channel reads; empty if it is told of no alerts. So one that is told of alerts later begins then.
    fn stream(&self, config: &NotifyConfig) -> &str {
        if config.has(NotifyEvent::Alerts) { &self.streams[usize::from(config.shadows)] } else { "" }
    }
}

/// Which turn of a channel it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Another one follows.
    Usual,
    /// The host stops after it, so it waits for nothing.
    Last,
}

/// What this process knows of the message that it sent last.
enum LastMessage {
    /// No message was sent, or its outcome is recorded in Redis.
    None,
    /// It may have arrived. It is sent again as it is, so that the receiver can recognise it.
    MayHaveArrived(Box<Composed>),
    /// The state after the message with this token is known. Redis may not have recorded it.
    Known { token: u64, after: Box<ChannelState> },
}

pub(super) struct Channel {
    config: NotifyConfig,
    settings: Arc<Settings>,
    filter: Filter,
    health: HealthWatch,
    agent: Agent,
    position: ChannelPosition,
    stop: mpsc::Receiver<ChannelStop>,
    /// The furthest state known: a server may come back with an older one.
    newest: Option<ChannelState>,
    /// Ids of alerts in messages that arrived, shown or counted.
    recent: RecentIds,
    last_message: LastMessage,
    /// Alerts that come before then go into the same message.
    group_until: Option<Instant>,
    backoff: Backoff,
    /// What was logged of the current failure.
    complaint: Option<String>,
    /// Attempts that had failed before the condition of this channel began.
    failures_before: Option<u64>,
    relapse: Relapse,
}

impl Channel {
    pub(super) fn new(
        config: &NotifyConfig,
        settings: &Arc<Settings>,
        stop: mpsc::Receiver<ChannelStop>,
    ) -> Result<Self> {
        Ok(Self {
            filter: Filter::new(config),
            health: HealthWatch::new(&config.name),
            agent: webhook::agent(config).context("notify.tls_ca")?,
            position: ChannelPosition::new(&settings.redis, &config.name)?,
            config: config.clone(),
            settings: settings.clone(),
            stop,
            newest: None,
            recent: RecentIds::new(RECENT_MAX),
            last_message: LastMessage::None,
            group_until: None,
            backoff: Backoff::default(),
            complaint: None,
            failures_before: None,
            relapse: Relapse::default(),
        })
    }

    /// Runs until it is stopped; `ready` is dropped once it is known where the channel begins.
    pub(super) fn run(mut self, ready: mpsc::Sender<()>) {
        let (mut ready, mut redis_lost) = (Some(ready), None);
        loop {
            let wait = match self.turn(Turn::Usual) {
                Ok(wait) => {
                    ready.take();
                    redis_lost = None;
                    wait
                }
                Err(error) => {
                    if redis_lost.is_none() {
                        warn!(
                            event = "notification_without_redis",
                            channel = %self.config.name,
                            error = %format!("{error:#}"),
                            "notifications are waiting for Redis"
                        );
                    }
                    if redis_lost.get_or_insert_with(Instant::now).elapsed() > REDIS_LOST_AFTER {
                        self.report_failure(&format!("its position can't be read or written: {error:#}"), 0);
                    }
                    pacing::retry(1, None, rand::random())
                }
            };
            // However long it waits to send, it notices what is wrong meanwhile.
            let wait = if self.config.has(NotifyEvent::Health) { wait.min(HEALTH_EVERY) } else { wait };
            match self.stop.recv_timeout(wait) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Ok(ChannelStop::Finish { owned }) => {
                    self.position.owned |= owned;
                    // The alerts that were committed last are sent now, not after the next start. What is wrong with the host
                    // has a turn of its own.
                    let turns = self.config.events.len();
                    if let Err(error) = (0..turns).try_for_each(|_| self.turn(Turn::Last).map(drop)) {
                        debug!(
                            event = "notification_stopped_without_redis",
                            channel = %self.config.name,
                            error = %format!("{error:#}"),
                            "stopped without Redis"
                        );
                    }
                    return;
                }
                Ok(ChannelStop::Now) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does what is due, and returns how long nothing else will be.
    fn turn(&mut self, turn: Turn) -> Result<Duration> {
        let reading = self.position.read_state()?;
        if self.config.has(NotifyEvent::Health) {
            self.health.observe(self.settings.conditions.current(), reading.now_ms);
        }
        let Some(state) = self.reconcile(&reading)? else {
            self.take_unconfirmed();
            self.health.stand_by();
            self.judge(None);
            return Ok(STANDBY_EVERY);
        };
        self.judge(Some(&state));
        if let Some(wait) = self.backoff.remaining() {
            return Ok(wait);
        }
        if let Some(message) = self.take_unconfirmed() {
            if reading.now_ms.saturating_sub(message.composed_ms) > self.config.max_age_s * 1000 {
                self.mark_in_doubt(state, "the notification is too old to be sent (max_age_s)")?;
                return Ok(Duration::ZERO);
            }
            self.attempt(&state, message, reading.now_ms)?;
            return Ok(Duration::ZERO);
        }
        if let Some(wait) = self.send_health(&state, reading.now_ms)? {
            return Ok(wait);
        }
        if !self.config.has(NotifyEvent::Alerts) {
            return Ok(HEALTH_EVERY);
        }
        let stream = self.settings.stream(&self.config);
        if !is_due(&state, reading.now_ms) && !self.position.wait(stream, &state.at, turn == Turn::Usual)? {
            self.group_until = None;
            return Ok(Duration::ZERO);
        }
        let group_until = Instant::now() + Duration::from_millis(self.config.group_ms);
        let group_until = *self.group_until.get_or_insert(group_until);
        if let Some(wait) = pacing::remaining(group_until).filter(|_| turn == Turn::Usual) {
            return Ok(wait);
        }
        let wait = pacing::wait_for_turn(&state.sent_ms, self.config.per_minute, reading.now_ms);
        if !wait.is_zero() {
            return Ok(wait);
        }
        self.group_until = None;
        self.send_new(state, &reading)?;
        Ok(Duration::ZERO)
    }

    /// Sends what is new about the host's health, or returns how long it must wait; `None` if nothing is new. It waits for no
    /// group of alerts, and has a message of its own.
    fn send_health(&mut self, state: &ChannelState, now_ms: u64) -> Result<Option<Duration>> {
        if !self.config.has(NotifyEvent::Health) {
            return Ok(None);
        }
        let news = self.health.news(&state.reported, Instant::now());
        if news.is_empty() {
            return Ok(None);
        }
        let wait = pacing::wait_for_turn(&state.sent_ms, self.config.per_minute, now_ms);
        if !wait.is_zero() {
            return Ok(Some(wait));
        }
        let message = self.compose_health(state, news, now_ms);
        self.attempt(state, Box::new(message), now_ms)?;
        Ok(Some(Duration::ZERO))
    }

    /// Reports whether this channel is failing. Without a state, another host sends.
    fn judge(&mut self, state: Option<&ChannelState>) {
        let (conditions, name) = (&self.settings.conditions, &self.config.name);
        let code = ConditionCode::ChannelFailing;
        let Some(state) = state else {
            (self.failures_before, self.relapse) = (None, Relapse::default());
            conditions.end_all(code, |subject| subject == name, "another host sends the notifications of this channel");
            return;
        };
        if !state.is_failing() || self.backoff.is_hiccup() {
            if self.relapse.allows_end(Instant::now()) {
                self.failures_before = None;
                conditions.end(code, name);
            }
            return;
        }
        self.relapse.failed(Instant::now());
        let failures = state.totals.failures;
        let before = *self.failures_before.get_or_insert(failures.saturating_sub(1));
        let reason = state.last_error.as_deref().unwrap_or("the last attempt failed");
        self.report_failure(reason, failures.saturating_sub(before));
    }

    fn report_failure(&self, reason: &str, attempts: u64) {
        let name = &self.config.name;
        let text = format!(
            "the notification channel {name} does not deliver: {reason}. `tickhound notify` shows its state, and \
             `tickhound notify test {name}` sends a test"
        );
        self.settings.conditions.report(ConditionCode::ChannelFailing, name, &text, attempts);
    }

    /// Sends the alerts behind the state's position, if any of them are news.
    fn send_new(&mut self, state: ChannelState, reading: &ChannelReading) -> Result<()> {
        let now_ms = reading.now_ms;
        let Some(state) = self.count_missed(state)? else { return Ok(()) };
        let (mut moved, gathered) = self.gather(&state, reading)?;
        if gathered.fresh == 0 && !is_due(&moved, now_ms) {
            moved.totals.older += gathered.older;
            count_muted(&mut moved, &gathered.muted);
            if moved != state && self.write(&moved, true)? {
                gathered.ids.iter().for_each(|id| _ = self.recent.insert(id));
            }
            return Ok(());
        }
        let message = self.compose(&state, &moved, gathered, now_ms);
        self.attempt(&state, Box::new(message), now_ms)
    }

    /// The state to continue from: what Redis has, reconciled with what this process knows. `None` if another host
    /// sends.
    fn reconcile(&mut self, reading: &ChannelReading) -> Result<Option<ChannelState>> {
        let stream = self.settings.stream(&self.config);
        let Some(stored) = reading.state.as_ref().filter(|state| state.stream == stream) else {
            return self.begin(reading);
        };
        if !reading.ours {
            return Ok(None);
        }
        let mut state = stored.clone();
        if let Some(newest) = self.newest.clone().filter(|newest| self.has_gone_back(&state, newest)) {
            warn!(
                event = "notification_state_rolled_back",
                channel = %self.config.name,
                "Redis has come back with older data; alerts that were sent are not sent again"
            );
            // A message that may have arrived is sent again as it is, under its key, and not composed anew.
            let sending = newest.sending.clone().filter(|sending| self.is_unconfirmed(sending));
            let AlertsExtent { added, .. } = self.position.extent(self.settings.stream(&self.config))?;
            state = ChannelState { sending, index: newest.index.min(added), ..newest };
        }
        match &state.sending {
            Some(sending) if self.is_unconfirmed(sending) => {}
            Some(sending) => match (self.known_after(sending), self.config.on_doubt) {
                (Some(after), _) => state = after,
                (None, OnDoubt::Skip) => {
                    return self.mark_in_doubt(state, "the host ended while the notification was being sent");
                }
                (None, OnDoubt::Repeat) => state.sending = None,
            },
            None => drop(self.take_unconfirmed()),
        }
        if state != *stored && !self.write(&state, true)? {
            return Ok(None);
        }
        self.newest = Some(state.clone());
        Ok(Some(state))
    }

    /// The first state of a channel, or of one whose state the server has lost. `None` if another host sends.
    fn begin(&mut self, reading: &ChannelReading) -> Result<Option<ChannelState>> {
        let state = match self.newest.clone() {
            // The server has lost everything.
            Some(newest) => ChannelState { sending: None, ..newest },
            // The channel is new, and begins with the alerts to come.
            None => {
                let stream = self.settings.stream(&self.config);
                let AlertsExtent { added, last, .. } = self.position.extent(stream)?;
                // If it reads another stream now, its receiver still knows what it was told of the host.
                let reported = reading.state.as_ref().map(|state| state.reported.clone()).unwrap_or_default();
                ChannelState {
                    stream: stream.to_owned(),
                    at: last.to_string(),
                    index: added,
                    reported,
                    ..ChannelState::default()
                }
            }
        };
        // A standby whose configuration names another stream must not replace the owner's state.
        let may_write = reading.state.is_none() || reading.ours;
        let written = may_write && self.write(&state, reading.state.is_some())?;
        Ok(Some(state).filter(|_| written && reading.ours))
    }

    /// Whether the server has lost what this channel wrote: its position, the message that may have arrived, or what the
    /// receiver was told of the host, which moves no position.
    fn has_gone_back(&self, stored: &ChannelState, newest: &ChannelState) -> bool {
        let unconfirmed = || newest.sending.as_ref().is_some_and(|sending| self.is_unconfirmed(sending));
        let has_lost = || (stored.sending.is_none() && unconfirmed()) || stored.totals.health < newest.totals.health;
        is_before(&stored.at, &newest.at) || (stored.at == newest.at && has_lost())
    }

    /// Whether this is the message that may have arrived, and that is sent again.
    fn is_unconfirmed(&self, sending: &MessageInFlight) -> bool {
        matches!(&self.last_message, LastMessage::MayHaveArrived(message) if message.token == sending.token)
    }

    /// The state after this message, if this process knows it.
    fn known_after(&self, sending: &MessageInFlight) -> Option<ChannelState> {
        match &self.last_message {
            LastMessage::Known { token, after } if *token == sending.token => Some((**after).clone()),
            _ => None,
        }
    }

    fn take_unconfirmed(&mut self) -> Option<Box<Composed>> {
        match std::mem::replace(&mut self.last_message, LastMessage::None) {
            LastMessage::MayHaveArrived(message) => Some(message),
            other => {
                self.last_message = other;
                None
            }
        }
    }

    /// Gives up a message of which it can't be known whether it arrived.
    fn mark_in_doubt(&mut self, mut state: ChannelState, why: &str) -> Result<Option<ChannelState>> {
        let Some(sending) = state.sending.take() else { return Ok(Some(state)) };
        let MessageInFlight { to, index, alerts, muted, .. } = sending;
        count_muted(&mut state, &muted);
        if alerts == 0 && to == state.at {
            // It was about the host's health, which is told again.
            return Ok(self.write(&state, true)?.then_some(state));
        }
        warn!(
            event = "notification_in_doubt",
            channel = %self.config.name,
            alerts,
            after = %state.at,
            %to,
            "alerts may not have been delivered: {why}. The next notification says so."
        );
        if state.omissions.in_doubt == 0 {
            state.omissions.doubt_after = state.at;
        }
        state.omissions.doubt_to.clone_from(&to);
        state.omissions.in_doubt += alerts;
        state.totals.in_doubt += alerts;
        (state.at, state.index) = (to, index);
        Ok(self.write(&state, true)?.then_some(state))
    }

    /// Counts the alerts that were trimmed before they were sent, each of them once.
    fn count_missed(&mut self, mut state: ChannelState) -> Result<Option<ChannelState>> {
        let AlertsExtent { removed, .. } = self.position.extent(self.settings.stream(&self.config))?;
        let missed = removed.saturating_sub(state.index);
        if missed == 0 {
            return Ok(Some(state));
        }
        error!(
            event = "notification_alerts_trimmed",
            channel = %self.config.name,
            missed,
            after = %state.at,
            "alerts were trimmed from the stream before they were sent"
        );
        state.index += missed;
        state.omissions.missed += missed;
        state.totals.missed += missed;
        Ok(self.write(&state, true)?.then_some(state))
    }

    /// Reads the alerts behind the state's position; returns the state behind them too.
    fn gather(&mut self, state: &ChannelState, reading: &ChannelReading) -> Result<(ChannelState, Gathered)> {
        let ChannelReading { now_ms, mutes, .. } = reading;
        let (mut moved, mut gathered) = (state.clone(), Gathered::new(self.config.group_by, self.settings.market()));
        // What a mute left out is counted for as long as the mute exists.
        moved.muted.retain(|known, _| mutes.iter().any(|mute| mute.id() == *known));
        let mutes = MutesInForce::at(mutes, *now_ms);
        let (filter, recent, most) = (&self.filter, &self.recent, self.config.max_per_message);
        self.position.read_alerts(self.settings.stream(&self.config), &state.at, |alert| {
            moved.at = alert.at.to_string();
            moved.index += 1;
            if !recent.contains(alert.field("id")) {
                match mutes.of(&alert).filter(|_| filter.wants(&alert)) {
                    Some(mute) => gathered.leave_out(mute),
                    None => gathered.take(alert, filter, *now_ms, most),
                }
            }
        })?;
        if gathered.older > 0 {
            moved.omissions.older += gathered.older;
            moved.omissions.newest_older_ms = gathered.newest_older_ms;
        }
        Ok((moved, gathered))
    }

    fn compose(&self, state: &ChannelState, moved: &ChannelState, gathered: Gathered, now_ms: u64) -> Composed {
        let Gathered { fresh, shown, ids, older, muted, .. } = gathered;
        let key = format!("{}/{}/{}", self.config.name, state.at, moved.at);
        let unreported = moved.omissions.clone();
        let message = Notification { shown, fresh, unreported, ..self.notification(NotificationKind::Alerts) };
        let request = self.request(key, &message);
        Composed {
            token: rand::random::<u64>() >> 1,
            request,
            ids,
            alerts: fresh + older,
            fresh,
            older,
            muted,
            topic: Topic::Alerts,
            unreported: moved.omissions.clone(),
            to: moved.at.clone(),
            index: moved.index,
            composed_ms: now_ms,
            attempts: 0,
        }
    }

    /// A message about the host's health, which leaves the position where it is.
    fn compose_health(&self, state: &ChannelState, news: Vec<HealthNews>, now_ms: u64) -> Composed {
        let token = rand::random::<u64>() >> 1;
        let key = format!("{}/health/{token:x}", self.config.name);
        let reported = reported_after(&state.reported, &news);
        let request = self.request(key, &self.notification(NotificationKind::Health(news.clone())));
        Composed {
            token,
            request,
            ids: VecDeque::new(),
            alerts: 0,
            fresh: 0,
            older: 0,
            muted: BTreeMap::new(),
            topic: Topic::Health { news, reported },
            unreported: Omissions::default(),
            to: state.at.clone(),
            index: state.index,
            composed_ms: now_ms,
            attempts: 0,
        }
    }

    /// A message without alerts.
    fn notification(&self, kind: NotificationKind) -> Notification {
        Notification {
            shown: ShownAlerts::default(),
            fresh: 0,
            unreported: Omissions::default(),
            stream: self.settings.stream(&self.config).to_owned(),
            group: self.settings.redis.group.clone(),
            kind,
        }
    }

    fn request(&self, key: String, message: &Notification) -> Request {
        let Settings { zone, server, .. } = &*self.settings;
        let style = Style { kind: self.config.kind, template: &self.config.text, zone, server };
        let body = webhook::body(&self.config, message, &key, &style);
        Request { key, body }
    }

    /// Sends the message. Redis records before the request that one is made, and after it what its outcome was.
    fn attempt(&mut self, state: &ChannelState, mut message: Box<Composed>, now_ms: u64) -> Result<()> {
        message.attempts += 1;
        let mut begun = ChannelState { sending: Some(message.sending()), ..state.clone() };
        pacing::note_sent(&mut begun.sent_ms, now_ms);
        // If the answer to this write is lost, the message of a first attempt was certainly not sent.
        self.last_message = match message.attempts {
            1 => LastMessage::Known { token: message.token, after: Box::new(state.clone()) },
            _ => LastMessage::None,
        };
        if !self.write(&begun, true)? {
            return Ok(());
        }
        let started = Instant::now();
        let outcome = match Secrets::read(&self.config) {
            Ok(secrets) => webhook::attempt(&self.agent, &secrets, &message.request),
            Err(error) => AttemptOutcome::Closed(format!("{error:#}")),
        };
        let now_ms = now_ms + started.elapsed().as_millis() as u64;
        let (next, action) = transition(begun, &message, outcome, now_ms);
        self.act(&action, &message);
        self.last_message = match action {
            Action::Resend(_) => LastMessage::MayHaveArrived(message),
            _ => LastMessage::Known { token: message.token, after: Box::new(next.clone()) },
        };
        // Without a fence: it has happened, whichever host owns the partition by now.
        self.write(&next, false)?;
        Ok(())
    }

    fn act(&mut self, action: &Action, message: &Composed) {
        if let (Action::Continue | Action::GiveUp { .. }, Topic::Health { news, .. }) = (action, &message.topic) {
            self.health.mark_reported(news);
        }
        match action {
            Action::Continue => self.record_delivery(message),
            Action::GiveUp { reason } => {
                let lost = match &message.topic {
                    Topic::Alerts => format!("its {} alerts are not delivered", message.fresh),
                    Topic::Health { .. } => "it was about the host's health, see `tickhound status`".to_owned(),
                };
                self.log_undeliverable(&format!("{reason}; {lost}"));
                self.backoff.reject();
            }
            Action::Recompose(Wait::Retry(reason, asked)) | Action::Resend(Wait::Retry(reason, asked)) => {
                self.log_delayed(reason);
                self.backoff.retry(*asked);
            }
            Action::Recompose(Wait::Pause(reason)) | Action::Resend(Wait::Pause(reason)) => {
                self.log_undeliverable(&format!("{reason}; trying again from time to time"));
                self.backoff.pause();
            }
        }
    }

    fn record_delivery(&mut self, message: &Composed) {
        message.ids.iter().for_each(|id| _ = self.recent.insert(id));
        if self.complaint.take().is_some() {
            info!(event = "notification_recovered", channel = %self.config.name, "notifications are delivered again");
        }
        debug!(
            event = "notification_sent",
            channel = %self.config.name,
            alerts = message.fresh,
            key = %message.request.key,
            "sent a notification"
        );
        self.backoff.reset();
    }

    fn log_undeliverable(&mut self, reason: &str) {
        if self.is_new_complaint(reason) {
            error!(
                event = "notification_undeliverable",
                channel = %self.config.name,
                "can't deliver notifications: {reason}"
            );
        }
    }

    fn log_delayed(&mut self, reason: &str) {
        if self.is_new_complaint(reason) {
            warn!(
                event = "notification_delayed",
                channel = %self.config.name,
                "failed to deliver a notification: {reason}; retrying"
            );
        }
    }

    /// Whether `reason` differs from the one that was logged last: each is logged once.
    fn is_new_complaint(&mut self, reason: &str) -> bool {
        let is_new = self.complaint.as_deref() != Some(reason);
        if is_new {
            self.complaint = Some(reason.to_owned());
        }
        is_new
    }

    fn write(&mut self, next: &ChannelState, fenced: bool) -> Result<bool> {
        let written = self.position.write(next, fenced)?;
        if written {
            self.newest = Some(next.clone());
        }
        Ok(written)
    }
}

/// Whether unreported alerts are reported now, without waiting for a new alert.
fn is_due(state: &ChannelState, now_ms: u64) -> bool {
    !state.omissions.is_empty()
        && state.sent_ms.last().is_none_or(|sent| now_ms.saturating_sub(*sent) >= REPORT_AFTER_MS)
}
