//! One sink at work: a thread that waits for alerts, groups them, and sends.
//!
//! Each turn begins with what Redis says and ends with what it was told, so that a turn may end anywhere: by an
//! error, or with the process. What was begun and what came of it is in `position`.

use std::{
    collections::VecDeque,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::tz::TimeZone;
use tracing::{debug, error, info, warn};
use ureq::Agent;

use super::{
    Stats, Stop,
    filter::{Filter, Gathered, RECENT_MAX},
    message::{Look as Looks, Message},
    pace,
    secret::Secrets,
    webhook::{self, Outcome, Request},
};
use tickhound_core::config::{NotifyConfig, OnDoubt, StreamConfig};
use tickhound_redis::{
    RecentIds,
    notified::{Extent, Look, Owed, Position, Sending, State, is_before},
};

/// How often a stand-by looks whether it has become the owner.
const STAND_BY: Duration = Duration::from_millis(500);

/// What is owed goes with the next alerts, or alone when so much time has passed since the last message.
const OWED_AFTER_MS: u64 = 30_000;

pub(super) struct Sink {
    config: NotifyConfig,
    /// Key of the stream of alerts.
    stream: String,
    zone: TimeZone,
    filter: Filter,
    agent: Agent,
    position: Position,
    stats: Arc<Stats>,
    stop: mpsc::Receiver<Stop>,
    /// The furthest state known: a server may come back with an older one.
    newest: Option<State>,
    /// Ids of alerts in messages that arrived, shown or counted.
    recent: RecentIds,
    /// A message that may have arrived. It is sent again as it is, so that the receiver can see that it is the same.
    held: Option<Held>,
    /// What became of the message with this token, for when Redis could not be told.
    outcome: Option<(u64, State)>,
    /// Until then what comes goes into the same message.
    group_until: Option<Instant>,
    not_before: Option<Instant>,
    /// In a row.
    failures: u32,
    refusals: u32,
    pauses: u32,
    complaint: Option<String>,
}

/// A message with where it leads.
struct Held {
    token: u64,
    request: Request,
    ids: VecDeque<String>,
    /// Alerts in it, those that are only counted too.
    alerts: u64,
    fresh: u64,
    older: u64,
    /// What is said beside the alerts, and still is to be said if it is refused.
    owed: Owed,
    to: String,
    index: u64,
    composed_ms: u64,
    attempts: u64,
}

impl Sink {
    pub(super) fn new(
        config: &NotifyConfig,
        redis: &StreamConfig,
        stream: &str,
        zone: &TimeZone,
        stats: &Arc<Stats>,
        stop: mpsc::Receiver<Stop>,
    ) -> Result<Self> {
        Ok(Self {
            filter: Filter::new(config),
            agent: webhook::agent(config).context("notify.tls_ca")?,
            position: Position::new(redis, &config.name)?,
            config: config.clone(),
            stream: stream.to_owned(),
            zone: zone.clone(),
            stats: stats.clone(),
            stop,
            newest: None,
            recent: RecentIds::new(RECENT_MAX),
            held: None,
            outcome: None,
            group_until: None,
            not_before: None,
            failures: 0,
            refusals: 0,
            pauses: 0,
            complaint: None,
        })
    }

    /// Works until told to stop; `ready` is dropped once it is known where the sink begins.
    pub(super) fn run(mut self, ready: mpsc::Sender<()>) {
        let (mut ready, mut lost) = (Some(ready), false);
        loop {
            let wait = match self.turn(false) {
                Ok(wait) => {
                    ready.take();
                    lost = false;
                    wait
                }
                Err(error) => {
                    if !lost {
                        warn!(
                            event = "notification_without_redis",
                            sink = %self.config.name,
                            error = %format!("{error:#}"),
                            "notifications are waiting for Redis"
                        );
                    }
                    lost = true;
                    pace::retry(1, None, rand::random())
                }
            };
            match self.stop.recv_timeout(wait) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Ok(Stop::Finish { owned }) => {
                    self.position.owned |= owned;
                    // What was committed last is told at once, not after the next start.
                    if let Err(error) = self.turn(true) {
                        debug!(
                            event = "notification_stopped_without_redis",
                            sink = %self.config.name,
                            error = %format!("{error:#}"),
                            "stopped without Redis"
                        );
                    }
                    return;
                }
                Ok(Stop::Now) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does what there is to do, and returns how long there will be nothing. `last`: there will be no other turn.
    fn turn(&mut self, last: bool) -> Result<Duration> {
        let look = self.position.look()?;
        let Some(state) = self.settle(&look)? else {
            self.held = None;
            return Ok(STAND_BY);
        };
        if let Some(wait) = left(self.not_before) {
            return Ok(wait);
        }
        if let Some(held) = self.held.take() {
            if look.now_ms.saturating_sub(held.composed_ms) > self.config.max_age_s * 1000 {
                self.doubt(state, "the notification is too old to be sent (max_age_s)")?;
                return Ok(Duration::ZERO);
            }
            return self.attempt(&state, held, look.now_ms);
        }
        if !is_due(&state, look.now_ms) && !self.position.wait(&self.stream, &state.at, !last)? {
            self.group_until = None;
            return Ok(Duration::ZERO);
        }
        let group_until = Instant::now() + Duration::from_millis(self.config.group_ms);
        if let Some(wait) = left(Some(*self.group_until.get_or_insert(group_until))).filter(|_| !last) {
            return Ok(wait);
        }
        let wait = pace::wait_for_turn(&state.sent_ms, self.config.per_minute, look.now_ms);
        if !wait.is_zero() {
            return Ok(wait);
        }
        self.group_until = None;
        let Some(state) = self.count_missed(state)? else { return Ok(Duration::ZERO) };
        let (mut moved, gathered) = self.gather(&state, look.now_ms)?;
        if gathered.fresh == 0 && !is_due(&moved, look.now_ms) {
            moved.totals.older += gathered.older;
            if moved != state && self.write(&moved, true)? {
                gathered.ids.iter().for_each(|id| _ = self.recent.insert(id));
            }
            return Ok(Duration::ZERO);
        }
        let held = self.compose(&state, &moved, gathered, look.now_ms);
        self.attempt(&state, held, look.now_ms)
    }

    /// The state as it is in truth; `None` if it is not for us to go on.
    fn settle(&mut self, look: &Look) -> Result<Option<State>> {
        let stored = look.state.as_ref().filter(|state| state.stream == self.stream);
        let newest = self.newest.clone();
        let Some(stored) = stored else {
            let state = match newest {
                // A server that has lost everything.
                Some(newest) => State { sending: None, ..newest },
                // The sink is new: what was before it is no business of it.
                None => {
                    let Extent { added, last, .. } = self.position.extent(&self.stream)?;
                    State { stream: self.stream.clone(), at: last, index: added, ..State::default() }
                }
            };
            // Where a stand-by tells of something else, it must not begin anew what the owner goes on with.
            let written = (look.state.is_none() || look.ours) && self.write(&state, look.state.is_some())?;
            return Ok(Some(state).filter(|_| written && look.ours));
        };
        if !look.ours {
            self.stats.set(&self.config.name, stored);
            return Ok(None);
        }
        let mut state = stored.clone();
        if let Some(newest) = newest.filter(|newest| self.has_gone_back(&state, newest)) {
            warn!(
                event = "notification_state_rolled_back",
                sink = %self.config.name,
                "Redis has come back with older data; alerts that were sent are not sent again"
            );
            // What may have arrived is sent again as it was, under its key, and not put together anew.
            let sending = newest.sending.clone().filter(|sending| self.holds(sending));
            let Extent { added, .. } = self.position.extent(&self.stream)?;
            state = State { sending, index: newest.index.min(added), ..newest };
        }
        match &state.sending {
            Some(sending) => {
                let known = self.outcome.clone().filter(|(token, _)| *token == sending.token);
                let held = self.holds(sending);
                match (known, self.config.on_doubt) {
                    (Some((_, after)), _) => state = after,
                    _ if held => {}
                    (None, OnDoubt::Skip) => {
                        return self.doubt(state, "the host ended while the notification was being sent");
                    }
                    (None, OnDoubt::Repeat) => state.sending = None,
                }
            }
            None => self.held = None,
        }
        if state != *stored && !self.write(&state, true)? {
            return Ok(None);
        }
        self.keep(&state);
        Ok(Some(state))
    }

    /// Whether the server has forgotten what this sink wrote: how far it was told, or the message that it holds.
    fn has_gone_back(&self, stored: &State, newest: &State) -> bool {
        let holds = || newest.sending.as_ref().is_some_and(|sending| self.holds(sending));
        is_before(&stored.at, &newest.at) || (stored.at == newest.at && stored.sending.is_none() && holds())
    }

    /// Whether this is the message that may have arrived, and is to be sent again.
    fn holds(&self, sending: &Sending) -> bool {
        self.held.as_ref().is_some_and(|held| held.token == sending.token)
    }

    /// Gives up the message under way: nobody knows whether it has arrived.
    fn doubt(&mut self, mut state: State, why: &str) -> Result<Option<State>> {
        let Some(sending) = state.sending.take() else { return Ok(Some(state)) };
        let Sending { to, index, alerts, .. } = sending;
        warn!(
            event = "notification_in_doubt",
            sink = %self.config.name,
            alerts,
            after = %state.at,
            %to,
            "alerts may not have been delivered: {why}. The next notification says so."
        );
        if state.owed.in_doubt == 0 {
            state.owed.doubt_after = state.at;
        }
        state.owed.doubt_to.clone_from(&to);
        state.owed.in_doubt += alerts;
        state.totals.in_doubt += alerts;
        (state.at, state.index) = (to, index);
        Ok(self.write(&state, true)?.then_some(state))
    }

    /// Alerts that are gone are counted before anything else, and once.
    fn count_missed(&mut self, mut state: State) -> Result<Option<State>> {
        let Extent { removed, .. } = self.position.extent(&self.stream)?;
        let missed = removed.saturating_sub(state.index);
        if missed == 0 {
            return Ok(Some(state));
        }
        error!(
            event = "notification_alerts_trimmed",
            sink = %self.config.name,
            missed,
            after = %state.at,
            "alerts were trimmed from the stream before they were sent"
        );
        state.index += missed;
        state.owed.missed += missed;
        state.totals.missed += missed;
        Ok(self.write(&state, true)?.then_some(state))
    }

    /// Everything after the state's place, and the state behind it.
    fn gather(&mut self, state: &State, now_ms: u64) -> Result<(State, Gathered)> {
        let (mut moved, mut gathered) = (state.clone(), Gathered::default());
        let (filter, recent, most) = (&self.filter, &self.recent, self.config.max_per_message);
        self.position.read(&self.stream, &state.at, |alert| {
            moved.at = alert.at.to_string();
            moved.index += 1;
            if !recent.contains(alert.field("id")) {
                gathered.take(alert, filter, now_ms, most);
            }
        })?;
        if gathered.older > 0 {
            moved.owed.older += gathered.older;
            moved.owed.newest_older_ms = gathered.newest_older_ms;
        }
        Ok((moved, gathered))
    }

    fn compose(&self, state: &State, moved: &State, gathered: Gathered, now_ms: u64) -> Held {
        let Gathered { fresh, shown, ids, older, .. } = gathered;
        let message = Message { shown, fresh, owed: moved.owed.clone(), stream: self.stream.clone(), test: false };
        let key = format!("{}/{}/{}", self.config.name, state.at, moved.at);
        let looks = Looks { kind: self.config.kind, template: &self.config.text, zone: &self.zone };
        let body = webhook::body(&self.config, &message, &key, &looks);
        Held {
            token: rand::random::<u64>() >> 1,
            request: Request { key, body },
            ids,
            alerts: fresh + older,
            fresh,
            older,
            owed: moved.owed.clone(),
            to: moved.at.clone(),
            index: moved.index,
            composed_ms: now_ms,
            attempts: 0,
        }
    }

    /// Sends, between telling Redis that it does and what came of it.
    fn attempt(&mut self, state: &State, mut held: Held, now_ms: u64) -> Result<Duration> {
        let in_doubt = held.attempts > 0;
        held.attempts += 1;
        let mut begun = state.clone();
        pace::note_sent(&mut begun.sent_ms, now_ms);
        let Held { token, alerts, attempts, .. } = held;
        let sending = Sending { token, to: held.to.clone(), index: held.index, alerts, attempts };
        begun.sending = Some(sending);
        // If this answer is lost, nothing was sent.
        self.outcome = (!in_doubt).then(|| (token, state.clone()));
        if !self.write(&begun, true)? {
            return Ok(Duration::ZERO);
        }
        let started = Instant::now();
        let outcome = match Secrets::of(&self.config) {
            Ok(secrets) => webhook::attempt(&self.agent, &secrets, &held.request),
            Err(error) => Outcome::Closed(format!("{error:#}")),
        };
        let now_ms = now_ms + started.elapsed().as_millis() as u64;
        // After a doubt a refusal says nothing of the attempt before.
        let unsent = if in_doubt { begun.sending.clone() } else { None };
        let mut next = State { sending: unsent, ..begun };
        if let Outcome::Later(reason, _)
        | Outcome::Unknown(reason)
        | Outcome::Refused(reason)
        | Outcome::Closed(reason) = &outcome
        {
            next.totals.failures += 1;
            (next.last_error_ms, next.last_error) = (Some(now_ms), Some(reason.clone()));
        }
        let keep = match outcome {
            Outcome::Told => {
                self.arrived(&held);
                next.last_ok_ms = Some(now_ms);
                next.totals.messages += 1;
                next.totals.alerts += held.fresh;
                pass(&mut next, &held);
                next.owed = Owed::default();
                false
            }
            Outcome::Later(reason, after) => {
                self.complain(&reason, false);
                self.failures += 1;
                self.rest(pace::retry(self.failures, after, rand::random()));
                in_doubt
            }
            Outcome::Unknown(reason) => {
                self.complain(&reason, false);
                self.failures += 1;
                self.rest(pace::retry(self.failures, None, rand::random()));
                next.sending = Some(Sending { token, to: held.to.clone(), index: held.index, alerts, attempts });
                true
            }
            Outcome::Refused(reason) => {
                self.complain(&format!("{reason}; its {} alerts are not delivered", held.fresh), true);
                pass(&mut next, &held);
                next.owed.refused += held.fresh;
                next.totals.refused += held.fresh;
                self.refusals += 1;
                if self.refusals >= pace::REFUSALS_BORNE {
                    self.pause();
                }
                false
            }
            Outcome::Closed(reason) => {
                self.complain(&format!("{reason}; trying again from time to time"), true);
                self.pause();
                in_doubt
            }
        };
        self.held = None;
        if keep {
            (self.outcome, self.held) = (None, Some(held));
        } else {
            self.outcome = Some((token, next.clone()));
        }
        // Without a fence: it has happened, whoever the owner is by now.
        self.write(&next, false)?;
        Ok(Duration::ZERO)
    }

    fn arrived(&mut self, held: &Held) {
        held.ids.iter().for_each(|id| _ = self.recent.insert(id));
        if self.complaint.take().is_some() {
            info!(event = "notification_recovered", sink = %self.config.name, "notifications are delivered again");
        }
        debug!(
            event = "notification_sent",
            sink = %self.config.name,
            alerts = held.fresh,
            key = %held.request.key,
            "sent a notification"
        );
        (self.failures, self.refusals, self.pauses) = (0, 0, 0);
    }

    fn pause(&mut self) {
        self.pauses += 1;
        self.rest(pace::pause(self.pauses));
    }

    fn rest(&mut self, wait: Duration) {
        self.not_before = Some(Instant::now() + wait);
    }

    /// Says once what is wrong.
    fn complain(&mut self, reason: &str, somebody_must_look: bool) {
        if self.complaint.as_deref() == Some(reason) {
            return;
        }
        match somebody_must_look {
            true => error!(
                event = "notification_undeliverable",
                sink = %self.config.name,
                "can't deliver notifications: {reason}"
            ),
            false => warn!(
                event = "notification_delayed",
                sink = %self.config.name,
                "failed to deliver a notification: {reason}; retrying"
            ),
        }
        self.complaint = Some(reason.to_owned());
    }

    fn write(&mut self, next: &State, fenced: bool) -> Result<bool> {
        let written = self.position.write(next, fenced)?;
        if written {
            self.keep(next);
        }
        Ok(written)
    }

    fn keep(&mut self, state: &State) {
        self.stats.set(&self.config.name, state);
        self.newest = Some(state.clone());
    }
}

/// The message is done with.
fn pass(state: &mut State, held: &Held) {
    state.sending = None;
    state.at.clone_from(&held.to);
    state.index = held.index;
    state.owed.clone_from(&held.owed);
    state.totals.older += held.older;
}

/// Whether what is owed is to be said without waiting for an alert.
fn is_due(state: &State, now_ms: u64) -> bool {
    !state.owed.is_empty() && state.sent_ms.last().is_none_or(|sent| now_ms.saturating_sub(*sent) >= OWED_AFTER_MS)
}

/// Time until then; `None` if it is over.
fn left(until: Option<Instant>) -> Option<Duration> {
    until.map(|until| until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}
