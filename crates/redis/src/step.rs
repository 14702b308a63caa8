//! The fenced step: one transaction that publishes, acknowledges, saves and reads, and what arms the next one.
//!
//! What holds: replies are parsed in the order in which [`Steps::write`] writes their commands. The order is
//!
//! ```text
//! MULTI · publishes · records · XINFO STREAM (new entries only) · XREADGROUP · EXEC · WATCH epoch · GET epoch
//! ```

use std::borrow::Cow;

use tracing::error;

use crate::{
    checkpoint::{Checkpoint, Ownership},
    errors::error_reply,
    keys::Keys,
    partition_config::PartitionConfig,
    pending_publishes::PendingPublishes,
    reply::{StreamInfo, parse_read, parse_stream_info},
    resp::{Commands, Item, Replies, UnexpectedReply},
    seal::seal,
    state,
};
use tickhound_core::{
    stream::{Commit, Delivery, ReadFrom, ReadRequest, StreamError},
    wall::now_ms,
};

/// Writes steps and parses their replies, one at a time.
#[derive(Default)]
pub(crate) struct Steps {
    /// The commands of the last step. The buffer is reused.
    commands: Commands,
    /// The step whose replies are not parsed yet.
    sent: Option<StepLayout>,
    /// What the server rejected before. Each step repeats it.
    pub(crate) pending: PendingPublishes,
}

/// The commands of a step's transaction by their purpose, in the order in which they are written.
#[derive(Clone, Copy, Debug)]
struct StepLayout {
    /// The number of commands that publish: they come first, so that each can be repeated by its position.
    publishes: usize,
    /// The number of commands that acknowledge and save, whose results only matter if they are errors.
    records: usize,
    /// The read at the end.
    read: StepRead,
    /// The largest number of entries to read.
    count: usize,
}

/// What a step reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepRead {
    /// The step only commits.
    Nothing,
    /// Entries that are pending under our name.
    Pending,
    /// New entries, and before them how the stream stands.
    New,
}

impl Steps {
    /// Writes the commands of a step.
    pub(crate) fn write(
        &mut self,
        config: &PartitionConfig,
        commit: &Commit,
        request: ReadRequest,
        owner: Ownership,
    ) -> &Commands {
        let commands = &mut self.commands;
        commands.clear();
        commands.words(&["MULTI"]);
        let before = commands.len();
        self.pending.commands().for_each(|publish| commands.push_packed(publish));
        write_publishes(commands, config, commit);
        let publishes = commands.len() - before;
        write_records(commands, config, commit, owner);
        let records = commands.len() - before - publishes;
        let read = StepRead::of(request);
        write_read(commands, config, request, read);
        let count = request.count;
        commands.words(&["EXEC"]);
        arm(commands, &config.keys);
        self.sent = Some(StepLayout { publishes, records, read, count });
        commands
    }

    /// Takes the layout of the step whose replies are awaited, and the number of its replies.
    ///
    /// # Errors
    /// When no step was written.
    pub(crate) fn take_sent(&mut self) -> Result<SentStep, StreamError> {
        let layout = self.sent.take().ok_or_else(|| StreamError::Unavailable("no step was begun".into()))?;
        Ok(SentStep { layout, replies: self.commands.len() })
    }

    /// Parses the replies to a step. `alone`: no other consumer of the group takes entries.
    ///
    /// # Errors
    /// When the step was fenced, or when the server rejected some of it. In the second case the rest of the step has
    /// happened, and what was not published is pending.
    pub(crate) fn parse(
        &mut self,
        step: SentStep,
        mut replies: Replies<'_>,
        epoch: u64,
        alone: bool,
    ) -> Result<Delivery, StreamError> {
        let StepLayout { publishes, records, read, .. } = step.layout;
        parse_exec(&mut replies, step.layout.commands())?;
        // The transaction has happened from here on, and with it everything that was pending.
        self.pending.clear();
        let mut results = Results { replies, first_error: None };
        for publish in 0..publishes {
            if results.skip()? == CommandResult::Rejected {
                // `MULTI` comes before the publishes.
                self.pending.push(self.commands.get(1 + publish));
            }
        }
        for _ in 0..records {
            results.skip()?;
        }
        let mut delivery = Delivery::default();
        if read == StepRead::New && results.next()? == CommandResult::Done {
            let StreamInfo { newest, extent } = parse_stream_info(&mut results.replies, alone)?;
            (delivery.newest, delivery.extent) = (newest, extent);
        }
        if read != StepRead::Nothing && results.next()? == CommandResult::Done {
            delivery.entries = parse_read(&mut results.replies)?;
        }
        if self.pending.len() > 0 {
            error!(
                event = "publish_rejected",
                kept = self.pending.len(),
                "Redis rejected alerts or dead letters; keeping them until it accepts them"
            );
        }
        if let Some(error) = results.first_error {
            return Err(error_reply(error));
        }
        parse_armed(&mut results.replies, epoch)?;
        Ok(delivery)
    }
}

/// A step whose replies are to be received.
#[derive(Clone, Copy)]
pub(crate) struct SentStep {
    layout: StepLayout,
    replies: usize,
}

impl SentStep {
    /// The number of replies.
    pub(crate) fn replies(&self) -> usize {
        self.replies
    }

    /// The largest number of entries that the step reads.
    pub(crate) fn count(&self) -> usize {
        self.layout.count
    }
}

impl StepLayout {
    /// The number of commands between `MULTI` and `EXEC`.
    fn commands(self) -> usize {
        let reads = match self.read {
            StepRead::Nothing => 0,
            StepRead::Pending => 1,
            StepRead::New => 2,
        };
        self.publishes + self.records + reads
    }
}

impl StepRead {
    fn of(request: ReadRequest) -> Self {
        match request.from {
            _ if request.count == 0 => Self::Nothing,
            ReadFrom::Pending(_) => Self::Pending,
            ReadFrom::New => Self::New,
        }
    }
}

/// Adds the commands that make the next transaction fail if the epoch changes from now on, and that return the epoch.
pub(crate) fn arm(commands: &mut Commands, keys: &Keys) {
    commands.words(&["WATCH", &keys.epoch]);
    commands.words(&["GET", &keys.epoch]);
}

/// Parses the replies to the commands of [`arm`].
///
/// # Errors
/// When the epoch is not `epoch`.
pub(crate) fn parse_armed(replies: &mut Replies<'_>, epoch: u64) -> Result<(), StreamError> {
    if let Some(error) = replies.skip()? {
        return Err(error_reply(error));
    }
    let current = match replies.item()? {
        Item::Bulk(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok()),
        Item::Error(error) => return Err(error_reply(error)),
        _ => None,
    };
    match current {
        Some(current) if current == epoch => Ok(()),
        Some(_) => Err(StreamError::Fenced),
        None => Err(StreamError::Unavailable("the epoch key has vanished".into())),
    }
}

/// Parses everything up to the results of a transaction with this many commands: the reply to `MULTI`, a `QUEUED` for
/// each command, and the head of the reply to `EXEC`.
fn parse_exec(replies: &mut Replies<'_>, commands: usize) -> Result<(), StreamError> {
    let mut first_error = None;
    for _ in 0..=commands {
        first_error = first_error.or(replies.skip()?);
    }
    if let Some(error) = first_error {
        return Err(error_reply(error));
    }
    match replies.item()? {
        Item::Array(results) if results == commands => Ok(()),
        // The epoch has changed since it was watched.
        Item::Nil => Err(StreamError::Fenced),
        Item::Error(error) => Err(error_reply(error)),
        _ => Err(UnexpectedReply("EXEC returned another number of results").into()),
    }
}

/// The results of a transaction's commands.
struct Results<'a> {
    replies: Replies<'a>,
    /// The first error among the results that were read.
    first_error: Option<&'a [u8]>,
}

/// How one command of a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CommandResult {
    Done,
    Rejected,
}

impl Results<'_> {
    /// Moves past a result that is an error; leaves any other result to be parsed.
    fn next(&mut self) -> Result<CommandResult, UnexpectedReply> {
        let Item::Error(error) = self.replies.clone().item()? else { return Ok(CommandResult::Done) };
        self.replies.skip()?;
        self.first_error = self.first_error.or(Some(error));
        Ok(CommandResult::Rejected)
    }

    /// Moves past a result.
    fn skip(&mut self) -> Result<CommandResult, UnexpectedReply> {
        let Some(error) = self.replies.skip()? else { return Ok(CommandResult::Done) };
        self.first_error = self.first_error.or(Some(error));
        Ok(CommandResult::Rejected)
    }
}

fn write_publishes(commands: &mut Commands, config: &PartitionConfig, commit: &Commit) {
    let alerts = &config.alerts;
    for alert in &commit.alerts {
        start_publish(commands, &alerts.stream, alerts.maxlen);
        add_fields(commands, &commit.layout.entry_fields(alert, None));
        commands.end();
    }
    for letter in &commit.dead_letters {
        start_publish(commands, &config.keys.dead, config.dead_letters.maxlen);
        add_fields(commands, &letter.fields());
        commands.end();
    }
    for (shadow_of, alert) in &commit.shadow_alerts {
        start_publish(commands, &alerts.shadow_stream, alerts.maxlen);
        add_fields(commands, &commit.layout.entry_fields(alert, Some(shadow_of)));
        commands.end();
    }
}

fn write_records(commands: &mut Commands, config: &PartitionConfig, commit: &Commit, owner: Ownership) {
    let PartitionConfig { stream, keys, .. } = config;
    if !commit.done.is_empty() || !commit.repeated.is_empty() {
        commands.arg("XACK").arg(&stream.key).arg(&stream.group);
        for id in commit.done.iter().chain(&commit.repeated) {
            commands.id(*id);
        }
        commands.end();
    }
    if commit.is_counted() {
        let at_ms = now_ms();
        Checkpoint::write(commands, &keys.checkpoint, commit, owner, at_ms);
        state::write(commands, &keys.state, commit, at_ms);
        state::write_venues(commands, &keys.venues, commit);
        state::write_poison(commands, &keys.state, &commit.poison);
    }
    if let Some(attempt) = commit.attempt {
        commands.arg("HSET").arg(&keys.checkpoint).arg("attempt");
        commands.arg(seal("attempt", &attempt.to_string()));
        commands.end();
    }
    if let Some(receipt) = &commit.receipt {
        commands.words(&["SET", &keys.host, receipt]);
    }
}

fn write_read(commands: &mut Commands, config: &PartitionConfig, request: ReadRequest, read: StepRead) {
    let stream = &config.stream;
    if read == StepRead::New {
        commands.words(&["XINFO", "STREAM", &stream.key]);
    }
    if read == StepRead::Nothing {
        return;
    }
    commands.arg("XREADGROUP").arg("GROUP").arg(&stream.group).arg(&stream.consumer);
    commands.arg("COUNT").show(request.count).arg("STREAMS").arg(&stream.key);
    match request.from {
        ReadFrom::New => commands.arg(">"),
        ReadFrom::Pending(after) => commands.id(after),
    };
    commands.end();
}

fn start_publish(commands: &mut Commands, stream: &str, maxlen: usize) {
    commands.arg("XADD").arg(stream);
    if maxlen > 0 {
        commands.arg("MAXLEN").arg("~").show(maxlen);
    }
    commands.arg("*");
}

fn add_fields<N: AsRef<str>>(commands: &mut Commands, fields: &[(N, Cow<'_, str>)]) {
    for (name, value) in fields {
        commands.arg(name.as_ref()).arg(value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::{
        config::{AlertsConfig, DeadLettersConfig, StreamConfig},
        event::{DeadLetter, EntryId},
    };

    const OWNER: Ownership = Ownership { epoch: 4, token: 5 };

    fn config() -> PartitionConfig {
        PartitionConfig::new(&StreamConfig::default(), &AlertsConfig::default(), &DeadLettersConfig::default())
    }

    /// Writes a step that publishes a dead letter, acknowledges an entry and reads new ones, and returns the names of
    /// its commands.
    fn write(steps: &mut Steps) -> Vec<String> {
        let done = vec![EntryId { millis: 7, seq: 1 }];
        let letter = DeadLetter { reason: "no price".into(), entry: done[0], blamed: None, raw: "{}".into() };
        let commit = Commit { dead_letters: vec![letter], done, ..Commit::default() };
        let request = ReadRequest { from: ReadFrom::New, count: 10 };
        let commands = steps.write(&config(), &commit, request, OWNER);
        let name = |index| {
            let mut words = Replies::new(commands.get(index));
            words.array().unwrap();
            String::from_utf8(words.bulk().unwrap().to_vec()).unwrap()
        };
        (0..commands.len()).map(name).collect()
    }

    /// The replies to that step, with these in the results of `XADD` and `XACK`.
    fn replies(publish: &str, acknowledge: &str, epoch: &str) -> String {
        format!(
            "+OK\r\n{queued}*5\r\n{publish}{acknowledge}:3\r\n\
             *6\r\n$6\r\nlength\r\n:2\r\n$13\r\nentries-added\r\n:9\r\n$17\r\nlast-generated-id\r\n$3\r\n8-1\r\n\
             *1\r\n*2\r\n$5\r\nticks\r\n*1\r\n*2\r\n$3\r\n8-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n\
             +OK\r\n{epoch}",
            queued = "+QUEUED\r\n".repeat(5)
        )
    }

    fn parse(steps: &mut Steps, replies: &str) -> Result<Delivery, StreamError> {
        let step = steps.take_sent()?;
        steps.parse(step, Replies::new(replies.as_bytes()), OWNER.epoch, true)
    }

    #[test]
    fn replies_are_parsed_in_the_order_of_the_commands() {
        let mut steps = Steps::default();
        let names = write(&mut steps);
        assert_eq!(names, ["MULTI", "XADD", "XACK", "HSET", "XINFO", "XREADGROUP", "EXEC", "WATCH", "GET"]);
        let delivery = parse(&mut steps, &replies("$3\r\n9-0\r\n", ":1\r\n", "$1\r\n4\r\n")).unwrap();
        assert_eq!((delivery.newest, delivery.entries.len()), (Some(EntryId { millis: 8, seq: 1 }), 1));
        let extent = delivery.extent.unwrap();
        assert_eq!((extent.added, extent.removed, extent.alone), (9, 7, true));
        assert!(parse(&mut steps, "").is_err(), "replies belong to one step");
    }

    #[test]
    fn a_rejected_publish_is_repeated_by_the_next_step() {
        let mut steps = Steps::default();
        write(&mut steps);
        let rejected = steps.commands.get(1).to_vec();
        let error = parse(&mut steps, &replies("-WRONGTYPE no\r\n", ":1\r\n", "$1\r\n4\r\n")).unwrap_err();
        assert!(error.to_string().contains("WRONGTYPE"), "{error}");
        assert_eq!(write(&mut steps)[..3], ["MULTI", "XADD", "XADD"]);
        assert_eq!(steps.commands.get(1), rejected);
        // Any other rejected command fails the step too, but is not repeated.
        let mut steps = Steps::default();
        write(&mut steps);
        assert!(parse(&mut steps, &replies("$3\r\n9-0\r\n", "-NOPERM no\r\n", "$1\r\n4\r\n")).is_err());
        assert_eq!(steps.pending.len(), 0);
    }

    #[test]
    fn a_step_under_another_epoch_is_fenced() {
        let mut steps = Steps::default();
        write(&mut steps);
        let nothing = format!("+OK\r\n{}*-1\r\n+OK\r\n$1\r\n5\r\n", "+QUEUED\r\n".repeat(5));
        assert!(matches!(parse(&mut steps, &nothing), Err(StreamError::Fenced)));
        write(&mut steps);
        let later = replies("$3\r\n9-0\r\n", ":1\r\n", "$1\r\n5\r\n");
        assert!(matches!(parse(&mut steps, &later), Err(StreamError::Fenced)));
    }
}
