//! What an attempt to send a message changes: the state that Redis gets, and what the channel does next; pure.
//!
//! What holds: a state without `sending` is written only once it is certain whether the message arrived.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{answer::AttemptOutcome, health::HealthNews, webhook::Request};
use tickhound_redis::notification_position::{ChannelState, MessageInFlight, Omissions, ReportedCondition};

/// A message, and the state that it leads to.
pub(super) struct Composed {
    /// Drawn anew for each message.
    pub(super) token: u64,
    pub(super) request: Request,
    /// Ids of the newest of its alerts.
    pub(super) ids: VecDeque<String>,
    /// Alerts in it, those that are only counted too.
    pub(super) alerts: u64,
    pub(super) fresh: u64,
    pub(super) older: u64,
    /// Alerts between its first and its last one that mutes leave out.
    pub(super) muted: BTreeMap<String, u64>,
    /// What the message is about.
    pub(super) topic: Topic,
    /// What it reports beside its alerts; the next message reports it again if this one is rejected.
    pub(super) unreported: Omissions,
    /// The last of its alerts, and how many the stream ever had up to that one.
    pub(super) to: String,
    pub(super) index: u64,
    pub(super) composed_ms: u64,
    /// Attempts that were begun. From the second on, an earlier one may have arrived.
    pub(super) attempts: u64,
}

/// What a message is about. What is wrong with the host has a message of its own, so that alerts can neither crowd it out
/// nor have it rejected.
pub(super) enum Topic {
    /// Alerts.
    Alerts,
    /// The host's health.
    Health {
        /// What it tells.
        news: Vec<HealthNews>,
        /// What the receiver was told of once it has this message.
        reported: Vec<ReportedCondition>,
    },
}

impl Composed {
    /// How Redis records that this message is being sent.
    pub(super) fn sending(&self) -> MessageInFlight {
        let Self { token, to, index, alerts, attempts, muted, .. } = self;
        let (to, muted) = (to.clone(), muted.clone());
        MessageInFlight { token: *token, to, index: *index, alerts: *alerts, attempts: *attempts, muted }
    }
}

/// What the channel does after an attempt.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// The message arrived; the next one may be sent at once.
    Continue,
    /// The message is given up; its alerts are counted in the next one.
    GiveUp {
        /// Why the receiver does not accept it.
        reason: String,
    },
    /// Nothing arrived: its alerts go into a new message after the wait.
    Recompose(Wait),
    /// It, or an earlier attempt, may have arrived: the same message is sent again after the wait, so that the receiver
    /// can recognise it.
    Resend(Wait),
}

/// What to wait for before the next attempt.
#[derive(Debug, PartialEq)]
pub(super) enum Wait {
    /// A failure that may pass by itself; with the wait that the receiver asks for.
    Retry(String, Option<Duration>),
    /// A person must fix something first.
    Pause(String),
}

/// The state and the action after an attempt that `begun` records.
pub(super) fn transition(
    begun: ChannelState,
    message: &Composed,
    outcome: AttemptOutcome,
    now_ms: u64,
) -> (ChannelState, Action) {
    let mut next = begun;
    if let AttemptOutcome::Later(reason, _)
    | AttemptOutcome::Unknown(reason)
    | AttemptOutcome::Rejected(reason)
    | AttemptOutcome::Closed(reason) = &outcome
    {
        next.totals.failures += 1;
        (next.last_error_ms, next.last_error) = (Some(now_ms), Some(reason.clone()));
    }
    let wait = match outcome {
        AttemptOutcome::Delivered => {
            next.last_ok_ms = Some(now_ms);
            next.totals.messages += 1;
            next.totals.alerts += message.fresh;
            advance(&mut next, message);
            match message.topic {
                Topic::Alerts => next.omissions = Omissions::default(),
                Topic::Health { .. } => next.totals.health += 1,
            }
            return (next, Action::Continue);
        }
        AttemptOutcome::Rejected(reason) => {
            advance(&mut next, message);
            next.omissions.refused += message.fresh;
            next.totals.refused += message.fresh;
            return (next, Action::GiveUp { reason });
        }
        AttemptOutcome::Unknown(reason) => {
            next.sending = Some(message.sending());
            return (next, Action::Resend(Wait::Retry(reason, None)));
        }
        AttemptOutcome::Later(reason, asked) => Wait::Retry(reason, asked),
        AttemptOutcome::Closed(reason) => Wait::Pause(reason),
    };
    // This attempt did not arrive, which says nothing of an earlier one without an answer.
    if message.attempts > 1 {
        return (next, Action::Resend(wait));
    }
    next.sending = None;
    (next, Action::Recompose(wait))
}

/// Moves behind the message.
fn advance(state: &mut ChannelState, message: &Composed) {
    state.sending = None;
    if let Topic::Health { reported, .. } = &message.topic {
        state.reported.clone_from(reported);
        return;
    }
    state.at.clone_from(&message.to);
    state.index = message.index;
    state.omissions.clone_from(&message.unreported);
    state.totals.older += message.older;
    count_muted(state, &message.muted);
}

/// Counts alerts that mutes leave out.
pub(super) fn count_muted(state: &mut ChannelState, muted: &BTreeMap<String, u64>) {
    for (mute, count) in muted {
        state.totals.muted += count;
        *state.muted.entry(mute.clone()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use tickhound_core::condition::ConditionCode;

    use super::*;

    const NOW_MS: u64 = 7_000;

    fn message(attempts: u64) -> Composed {
        Composed {
            token: 11,
            request: Request { key: "desk/1-0/4-0".into(), body: Vec::new() },
            ids: VecDeque::new(),
            alerts: 3,
            fresh: 2,
            older: 1,
            muted: BTreeMap::from([("1/NIFTY*/breakout".into(), 4)]),
            topic: Topic::Alerts,
            unreported: Omissions { older: 1, missed: 5, ..Omissions::default() },
            to: "4-0".into(),
            index: 4,
            composed_ms: 1,
            attempts,
        }
    }

    fn after(attempts: u64, outcome: AttemptOutcome) -> (ChannelState, Action) {
        let message = message(attempts);
        let begun =
            ChannelState { at: "1-0".into(), index: 1, sending: Some(message.sending()), ..ChannelState::default() };
        transition(begun, &message, outcome, NOW_MS)
    }

    #[test]
    fn a_message_that_arrived_moves_the_position_and_clears_what_was_unreported() {
        let (state, action) = after(1, AttemptOutcome::Delivered);
        assert_eq!(action, Action::Continue);
        assert_eq!((state.at.as_str(), state.index, &state.sending), ("4-0", 4, &None));
        assert!(state.omissions.is_empty() && !state.is_failing());
        assert_eq!((state.totals.messages, state.totals.alerts, state.totals.older), (1, 2, 1));
        assert_eq!((state.last_ok_ms, state.totals.failures), (Some(NOW_MS), 0));
    }

    /// What was muted between the alerts of a message is counted with them, once.
    #[test]
    fn muted_alerts_are_counted_when_the_position_moves_behind_them() {
        for outcome in [AttemptOutcome::Delivered, AttemptOutcome::Rejected("no".into())] {
            let (state, _) = after(1, outcome);
            assert_eq!((state.totals.muted, state.muted["1/NIFTY*/breakout"]), (4, 4));
        }
        let (state, _) = after(1, AttemptOutcome::Later("busy".into(), None));
        assert_eq!((state.totals.muted, state.muted.len()), (0, 0));
    }

    #[test]
    fn a_message_about_the_hosts_health_leaves_the_position_and_what_is_unreported() {
        let reported = vec![ReportedCondition { code: ConditionCode::SilentFeed, ..ReportedCondition::default() }];
        let topic = Topic::Health { news: Vec::new(), reported: reported.clone() };
        let message = Composed { topic, alerts: 0, fresh: 0, older: 0, ..message(1) };
        let omissions = Omissions { refused: 3, ..Omissions::default() };
        let begun = ChannelState {
            at: "1-0".into(),
            index: 1,
            sending: Some(message.sending()),
            omissions: omissions.clone(),
            ..ChannelState::default()
        };
        for outcome in [AttemptOutcome::Delivered, AttemptOutcome::Rejected("no".into())] {
            let (state, _) = transition(begun.clone(), &message, outcome, NOW_MS);
            assert_eq!((state.at.as_str(), state.index, &state.sending), ("1-0", 1, &None));
            assert_eq!((&state.omissions, &state.reported), (&omissions, &reported));
        }
        let (state, _) = transition(begun, &message, AttemptOutcome::Later("busy".into(), None), NOW_MS);
        assert_eq!(state.reported, [], "it is reported again");
    }

    #[test]
    fn the_alerts_of_a_rejected_message_are_reported_by_the_next_one() {
        let (state, action) = after(1, AttemptOutcome::Rejected("it answers 400".into()));
        assert_eq!(action, Action::GiveUp { reason: "it answers 400".into() });
        assert_eq!((state.at.as_str(), state.index, &state.sending), ("4-0", 4, &None));
        assert_eq!((state.omissions.refused, state.omissions.missed, state.totals.refused), (2, 5, 2));
        assert!(state.is_failing());
    }

    #[test]
    fn a_message_that_did_not_arrive_leaves_the_position() {
        let asked = Some(Duration::from_secs(3));
        let cases = [
            (AttemptOutcome::Later("busy".into(), asked), Wait::Retry("busy".into(), asked)),
            (AttemptOutcome::Closed("gone".into()), Wait::Pause("gone".into())),
        ];
        for (outcome, wait) in cases {
            let (state, action) = after(1, outcome);
            assert_eq!(action, Action::Recompose(wait));
            assert_eq!((state.at.as_str(), state.index, &state.sending), ("1-0", 1, &None));
            assert_eq!((state.totals.failures, state.last_error_ms), (1, Some(NOW_MS)));
        }
    }

    /// A refused connection says nothing of the attempt before it, which timed out.
    #[test]
    fn a_message_that_may_have_arrived_stays_the_same() {
        let unknown = || AttemptOutcome::Unknown("no answer".into());
        for (attempts, outcome) in [(1, unknown()), (2, unknown()), (2, AttemptOutcome::Later("refused".into(), None))]
        {
            let (state, action) = after(attempts, outcome);
            assert!(matches!(action, Action::Resend(Wait::Retry(..))), "{action:?}");
            assert_eq!((state.at.as_str(), state.sending), ("1-0", Some(message(attempts).sending())));
        }
        let (state, action) = after(2, AttemptOutcome::Closed("gone".into()));
        assert_eq!(action, Action::Resend(Wait::Pause("gone".into())));
        assert_eq!(state.sending, Some(message(2).sending()));
    }

    #[test]
    fn an_earlier_attempt_without_an_answer_does_not_undo_an_answer() {
        for outcome in [AttemptOutcome::Delivered, AttemptOutcome::Rejected("no".into())] {
            assert_eq!(after(2, outcome).0.sending, None);
        }
    }
}
