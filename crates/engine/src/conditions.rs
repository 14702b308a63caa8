//! The conditions of this host that hold now: those that judge the feed, the channels and the files report here.
//!
//! What holds: a condition that begins is logged once, and once more when it ends, however often it is reported between.
//! Observers see the whole set, the gravest condition first, and are woken when it changes.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::watch;
use tracing::{info, warn};

use tickhound_core::{
    condition::{Condition, ConditionCode},
    text::printable,
    wall::now_ms,
};

/// The longest text of a condition, characters: it may quote what a producer or a receiver has sent, and is written to
/// Redis every few seconds.
const TEXT_MAX: usize = 600;

/// The conditions of a host. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    current: Arc<watch::Sender<Vec<Condition>>>,
    changes: Arc<AtomicU64>,
    closed: Arc<AtomicBool>,
}

impl Conditions {
    /// The conditions that hold now, the gravest first.
    pub fn current(&self) -> Vec<Condition> {
        self.current.borrow().clone()
    }

    /// Follows the conditions. A change is a condition that begins, ends, or has another text or count.
    pub fn subscribe(&self) -> watch::Receiver<Vec<Condition>> {
        self.current.subscribe()
    }

    /// How many conditions have begun or ended.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Reports that a condition holds. `count` is how many entries, ticks or attempts it has affected since it began.
    pub fn report(&self, code: ConditionCode, subject: &str, text: &str, count: u64) {
        if self.closed.load(Relaxed) {
            return;
        }
        let text = shown(text);
        self.current.send_if_modified(|current| {
            if let Some(known) = current.iter_mut().find(|known| known.is(code, subject)) {
                let changed = known.text != text || known.count != count;
                if changed {
                    (known.text, known.count) = (text.to_string(), count);
                }
                return changed;
            }
            self.changes.fetch_add(1, Relaxed);
            warn!(event = "condition_began", code = code.name(), subject = named(subject), "{text}");
            let (subject, text) = (subject.to_owned(), text.to_string());
            current.push(Condition { code, subject, text, began_ms: now_ms(), count });
            // Stable, so conditions of one kind stay in the order in which they began.
            current.sort_by_key(|condition| condition.code);
            true
        });
    }

    /// Leaves the conditions as they are: the host stops, which ends none of them.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Reports that a condition does not hold. This has no effect if it did not.
    pub fn end(&self, code: ConditionCode, subject: &str) {
        self.end_all(code, |known| known == subject, code.end());
    }

    /// Ends the conditions with this code and such a subject; `because` is a sentence for the log.
    pub fn end_all(&self, code: ConditionCode, is_ended: impl Fn(&str) -> bool, because: &str) {
        let ends = |known: &Condition| known.code == code && is_ended(&known.subject);
        // Most calls change nothing: they only read.
        if self.closed.load(Relaxed) || !self.current.borrow().iter().any(ends) {
            return;
        }
        self.current.send_if_modified(|current| {
            let before = current.len();
            for Condition { subject, began_ms, count, .. } in current.extract_if(.., |known| ends(known)) {
                self.changes.fetch_add(1, Relaxed);
                let (code, subject) = (code.name(), named(&subject));
                let lasted_s = now_ms().saturating_sub(began_ms) / 1000;
                info!(event = "condition_ended", code, subject, lasted_s, count, "{because}");
            }
            current.len() < before
        });
    }
}

/// A subject as a field of the log, which is left out if there is none.
fn named(subject: &str) -> Option<&str> {
    (!subject.is_empty()).then_some(subject)
}

/// A text as it is safe to show, of bounded length.
fn shown(text: &str) -> Cow<'_, str> {
    let text = printable(text);
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_see_what_holds_with_the_gravest_first() {
        let conditions = Conditions::default();
        let mut followed = conditions.subscribe();
        conditions.report(ConditionCode::ChannelFailing, "desk", "it answers 403", 1);
        conditions.report(ConditionCode::DeadLetters, "", "all entries", 5);
        conditions.report(ConditionCode::ChannelFailing, "desk", "it answers 403", 2);
        let seen: Vec<_> = followed.borrow_and_update().iter().map(|seen| (seen.code, seen.count)).collect();
        assert_eq!(seen, [(ConditionCode::DeadLetters, 5), (ConditionCode::ChannelFailing, 2)]);
        conditions.report(ConditionCode::DeadLetters, "", "all entries", 5);
        conditions.end(ConditionCode::ChannelFailing, "another");
        assert!(!followed.has_changed().unwrap(), "nothing has changed");
        conditions.end(ConditionCode::DeadLetters, "");
        conditions.end(ConditionCode::ChannelFailing, "desk");
        assert_eq!(*followed.borrow_and_update(), []);
    }

    #[test]
    fn a_hostile_text_is_shown_as_escapes_and_cut() {
        let conditions = Conditions::default();
        conditions.report(ConditionCode::DeadLetters, "", &format!("\u{1b}]0;\n{}", "x".repeat(100_000)), 1);
        let text = &conditions.current()[0].text;
        assert!(text.starts_with("\\u{1b}]0;\\n") && text.ends_with('…'), "{text}");
        assert_eq!(text.chars().count(), TEXT_MAX + 1);
    }
}
