//! The commit protocol against a model of the server: two hosts, in random orders of events.
//!
//! The model's server does what Redis and our scripts do, and nothing more. It counts epochs as `INCR` does, so that a
//! replica which is promoted too early assigns an epoch twice. A step happens if the epoch's key was not written since
//! the step was armed, as with `WATCH`. The hosts have the real [`Position`]. Their state of a symbol is a hash of all
//! entries processed so far, which the alert of each entry carries. So the alerts show each entry that is lost,
//! processed twice, or processed with the wrong state or by a version of the detector that is not in force.
//!
//! `TICKHOUND_MODEL_CASES=1000000 cargo test --release --lib position` runs a million cases.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use proptest::prelude::*;

use super::*;
use crate::{
    checkpoint::Visit,
    event::{Alert, AlertOrigin, Direction},
    stream::{Extent, Totals},
};

const SYMBOLS: usize = 3;

/// The number of cases in a normal test run. A hundred thousand take half a minute in release.
const CASES: u32 = 20_000;

/// The saved state of a symbol: as of which entry, and the state.
type Chunk = (EntryId, u64);

#[derive(Clone, Copy, Debug)]
enum Answer {
    Comes,
    /// The request never reached the server.
    LostBefore,
    /// The server processed the request, and its answer was lost.
    LostAfter,
    /// The host, or its link, is paused: the request reaches the server after whatever happens meanwhile.
    Late,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Add(u64),
    /// Another consumer of the group receives entries, and dies.
    Foreign(usize),
    /// Another client receives entries under our consumer's name, and does nothing with them.
    ReadAsUs(usize),
    /// The lease has expired, or the host believes that it has.
    Acquire(usize, Answer),
    Release(usize),
    Step(usize, usize, Answer),
    /// A late request reaches the server.
    Arrive(usize),
    /// The first unfinished batch is processed.
    Work(usize),
    Visit(usize, u16),
    /// A plugin is replaced by one that behaves differently.
    Swap(usize),
    Adopt(usize, Answer),
    Crash(usize),
    /// What a replica knows: the state of the server now, which `GoBack` returns to.
    Remember,
    GoBack,
    /// A user destroys the group.
    Destroy,
    /// A user sets the group back to this entry.
    SetBack(u64),
}

#[derive(Clone, Default)]
struct Server {
    added: u64,
    /// Entries that were added, and that the server has lost.
    forgotten: BTreeSet<u64>,
    /// Whether a host continued with entries that only it knew, so that alerts are lost as well.
    outlived: bool,
    /// Whether the group is destroyed.
    destroyed: bool,
    /// Whether the group is set back.
    set_back: bool,
    delivered: u64,
    /// Entries that were delivered to our consumer and not acknowledged.
    pending: BTreeSet<u64>,
    /// Entries that were delivered to another consumer and not acknowledged.
    foreign: BTreeSet<u64>,
    /// Pending entries that were delivered to another client under our consumer's name.
    read_as_us: BTreeSet<u64>,
    epoch: u64,
    /// How often the epoch's key was written. Each time fails the steps that were armed before.
    touched: u64,
    last_commit: Option<CommitId>,
    index: Option<u64>,
    chunks: [Chunk; SYMBOLS],
    /// The version of the detector that made the saved states.
    version: u64,
    /// Each alert's entry and the state of its symbol, in the order of publishing.
    alerts: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct Flight {
    entries: Vec<u64>,
    alerts: Vec<(u64, u64)>,
    newest: EntryId,
    index: Option<u64>,
    out_of_order: bool,
    ready: bool,
    visit: Option<(Vec<(usize, u64)>, u64)>,
}

/// A step whose request is on its way.
struct Transit {
    commit: Commit,
    read: (ReadFrom, usize),
    armed: u64,
    /// The host has given it up.
    given_up: bool,
}

#[derive(Default)]
struct Host {
    position: Position,
    /// Whether a session is open; an error closes it.
    open: bool,
    /// The server's `touched` when the next step was armed.
    armed: u64,
    transit: Option<Transit>,
    known: [u64; SYMBOLS],
    version: u64,
    flights: VecDeque<Flight>,
    repeated: BTreeSet<u64>,
    commits: u64,
    /// Whether the group had no other consumer when the host last asked.
    alone: bool,
    /// Whether the host has asked for the entries of others since it acquired the partition.
    has_adopted: bool,
}

/// Draws tokens.
#[derive(Default)]
struct Dice(u64);

fn id(entry: u64) -> EntryId {
    EntryId { millis: entry, seq: 0 }
}

fn symbol(entry: u64) -> usize {
    (entry % SYMBOLS as u64) as usize
}

/// The state that a version of the detector has after an entry, from the state before it.
fn learn(version: u64, known: u64, entry: u64) -> u64 {
    (known ^ entry ^ (version << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

fn alert((entry, known): (u64, u64)) -> Alert {
    Alert {
        id: String::new(),
        detector: String::new(),
        plugin: String::new(),
        version: String::new(),
        origin: AlertOrigin::default(),
        symbol: String::new(),
        venue: String::new(),
        group: String::new(),
        members: Vec::new(),
        time: known,
        price: 1.0,
        confidence: 1.0,
        direction: Direction::None,
        evidence: Vec::new(),
        entry: id(entry),
        lag_ms: 0,
        recovered: false,
        stale: false,
    }
}

/// A request as the server may see it after the host has given it up.
fn copy(commit: &Commit) -> Commit {
    Commit {
        alerts: commit.alerts.clone(),
        done: commit.done.clone(),
        repeated: commit.repeated.clone(),
        totals: commit.totals,
        newest: commit.newest,
        index: commit.index,
        visit: commit.visit.as_ref().map(|visit| Visit {
            chunks: visit.chunks.clone(),
            symbols: visit.symbols.clone(),
            complete: visit.complete.clone(),
            ..Visit::default()
        }),
        ..Commit::default()
    }
}

impl Server {
    /// The first entry that was not delivered yet.
    fn next(&self) -> Option<u64> {
        (self.delivered + 1..=self.added).find(|entry| !self.forgotten.contains(entry))
    }

    fn raise_epoch(&mut self) {
        self.epoch += 1;
        self.touched += 1;
    }

    /// One transaction. `None`: it was fenced, or the read failed, which does not undo the commit.
    fn step(
        &mut self,
        owner: (u64, u64),
        armed: u64,
        commit: &Commit,
        (from, count): (ReadFrom, usize),
    ) -> Option<Delivery> {
        if armed != self.touched {
            return None;
        }
        for done in commit.done.iter().chain(&commit.repeated) {
            self.pending.remove(&done.millis);
            self.foreign.remove(&done.millis);
        }
        self.alerts.extend(commit.alerts.iter().map(|alert| (alert.entry.millis, alert.time)));
        if commit.is_counted() {
            self.last_commit = Some(commit_id(commit, owner.0, owner.1));
            self.index = commit.index;
        }
        if let Some(visit) = &commit.visit {
            for chunk in visit.chunks.clone() {
                self.chunks[usize::from(chunk)].0 = commit.newest;
            }
            for (name, packed) in &visit.symbols {
                let known = u64::from_le_bytes(packed[..].try_into().unwrap());
                self.chunks[name.parse::<usize>().unwrap()].1 = known;
            }
            self.version = visit.complete[0].1;
        }
        if self.destroyed {
            return None;
        }
        let mut delivered = Delivery::default();
        match from {
            ReadFrom::Pending(after) => {
                let pending = self.pending.iter().filter(|entry| id(**entry) > after).take(count);
                pending.for_each(|entry| delivered.entries.push_entry(id(*entry)));
            }
            ReadFrom::New => {
                let added = self.added - self.forgotten.len() as u64;
                delivered.extent = Some(Extent { added, removed: 0, alone: true });
                delivered.newest = Some(id(self.added));
                for _ in 0..count {
                    let Some(next) = self.next() else { break };
                    self.delivered = next;
                    self.foreign.remove(&next);
                    self.pending.insert(next);
                    delivered.entries.push_entry(id(next));
                }
            }
        }
        Some(delivered)
    }

    /// Does what `find_group` does: creates a destroyed group again, and moves one that was set back forward.
    fn find_group(&mut self) {
        if std::mem::take(&mut self.destroyed) {
            self.delivered = self.last_commit.map_or(0, |commit| commit.newest.millis);
        }
        self.set_back = false;
        if let Some(last) = self.last_commit {
            self.move_group(last.newest.millis);
        }
    }

    /// Does what `set_forward` does: moves the group past what is committed or pending.
    fn move_group(&mut self, committed: u64) {
        let pending = self.pending.iter().chain(&self.foreign).max();
        self.delivered = self.delivered.max(committed).max(pending.copied().unwrap_or(0));
        self.set_back = false;
    }

    /// A replica that knows what the server knew at an earlier time takes its place.
    fn go_back(&mut self, remembered: &Self) {
        // Ids are never assigned twice, since they contain the time; epochs are.
        let (added, touched, outlived) = (self.added, self.touched + 1, self.outlived);
        *self = Self { touched, outlived, ..remembered.clone() };
        self.forgotten.extend(self.added + 1..=added);
        self.added = added;
    }

    /// Whether only the two hosts have unprocessed entries.
    fn only_hosts_hold_entries(&self) -> bool {
        self.foreign.is_empty() && self.pending.is_disjoint(&self.read_as_us)
    }

    /// Destroys the group, unless that must lose entries: pending ones that are older than the last commit, or than the
    /// next one.
    fn destroy_group(&mut self, hosts: &[Host; 2]) {
        let newest = self.last_commit.map_or(u64::MAX, |commit| commit.newest.millis);
        let passed_by = |host: &Host| {
            let held = host.held();
            !held.is_empty() && !self.pending.is_subset(&held)
        };
        let none_passed_by = self.only_hosts_hold_entries() && !hosts.iter().any(passed_by);
        if none_passed_by && self.pending.iter().all(|entry| *entry > newest) {
            (self.destroyed, self.pending) = (true, BTreeSet::new());
        }
    }

    /// Sets the group back, unless another consumer holds unprocessed entries: afterwards they could not be
    /// distinguished from processed ones.
    fn set_group_back(&mut self, to: u64, hosts: &[Host; 2]) {
        let under_way = hosts.iter().any(|host| host.transit.is_some());
        if self.only_hosts_hold_entries() && !under_way && self.last_commit.is_some() {
            (self.delivered, self.set_back) = (self.delivered.min(to), true);
        }
    }

    /// Delivers entries to another reader. A group that was set back is moved forward first, as the hosts can't prevent
    /// that others process its old entries again.
    fn deliver(&mut self, count: usize) -> Vec<u64> {
        self.find_group();
        let mut entries = Vec::new();
        for _ in 0..count {
            let Some(next) = self.next() else { break };
            self.delivered = next;
            entries.push(next);
        }
        entries
    }
}

impl Host {
    /// Does what the engine's `resume` and `restore` do.
    fn acquire(&mut self, server: &mut Server, dice: &mut Dice, answer: Answer) {
        self.give_up();
        if matches!(answer, Answer::LostBefore) {
            return;
        }
        server.raise_epoch();
        server.find_group();
        if !matches!(answer, Answer::Comes) {
            return;
        }
        dice.0 += 1;
        let newest = server.last_commit.map(|commit| commit.newest);
        let last_commit = server.last_commit.unwrap_or_default();
        let acquired = Acquisition {
            epoch: server.epoch,
            token: dice.0,
            totals: Totals { commits: last_commit.number, ..Totals::default() },
            last_commit,
            newest,
            // Before the first commit, the index is only known for a group that was just created.
            index: if newest.is_some() { server.index } else { (server.delivered == 0).then_some(0) },
            oldest: (1..=server.added).find(|entry| !server.forgotten.contains(entry)).map(id),
            last_delivered: id(server.delivered),
            ..Acquisition::default()
        };
        if let Some(commit) = self.position.reconcile(&acquired) {
            self.commits = commit.totals.commits;
        }
        (self.open, self.has_adopted, self.armed) = (true, false, server.touched);
        let unknown = |entry: &u64| {
            let known = [&server.pending, &server.foreign].iter().any(|set| set.contains(entry));
            !known && server.forgotten.contains(entry)
        };
        let forgotten = self.held().iter().any(unknown);
        match self.position.resume(&acquired, forgotten) {
            Resume::Undisturbed => {}
            // The server has lost all commits, and not its stream.
            Resume::Emptied => {
                server.outlived = true;
                self.repeated.clear();
                self.visit(0..SYMBOLS as u16);
            }
            Resume::Afresh => {
                self.flights.clear();
                self.repeated.retain(|entry| Some(id(*entry)) <= newest);
                self.commits = last_commit.number;
                self.version = server.version;
                match newest {
                    None => {
                        self.known = [0; SYMBOLS];
                        self.visit(0..SYMBOLS as u16);
                    }
                    Some(last) => self.restore(server, last),
                }
                self.position.mark_restored();
            }
        }
    }

    /// Entries between read and commit.
    fn held(&self) -> BTreeSet<u64> {
        let open = self.position.unknown_entries().iter().map(|id| id.millis);
        let on_their_way = self.transit.iter().flat_map(|transit| transit.commit.done.iter().map(|id| id.millis));
        open.chain(on_their_way).chain(self.flights.iter().flat_map(|flight| flight.entries.iter().copied())).collect()
    }

    /// Closes the session after an error or a timeout: whether the request in transit happens is unknown.
    fn give_up(&mut self) {
        self.open = false;
        if let Some(transit) = self.transit.as_mut().filter(|transit| !transit.given_up) {
            transit.given_up = true;
            self.position.set_unknown_commit(copy(&transit.commit));
        }
    }

    fn restore(&mut self, server: &Server, last: EntryId) {
        self.known = server.chunks.map(|(_, known)| known);
        let start = server.chunks.iter().map(|(at, _)| at.millis).min().unwrap();
        for entry in start + 1..=last.millis {
            let absent = [&server.pending, &server.foreign, &server.forgotten].iter().any(|set| set.contains(&entry));
            if !absent && id(entry) > server.chunks[symbol(entry)].0 {
                let known = &mut self.known[symbol(entry)];
                *known = learn(self.version, *known, entry);
            }
        }
    }

    fn visit(&mut self, chunks: std::ops::Range<u16>) {
        let states = chunks.map(|chunk| (usize::from(chunk), self.known[usize::from(chunk)])).collect();
        self.launch(Vec::new(), Vec::new(), false, Some((states, self.version)));
    }

    fn launch(
        &mut self,
        entries: Vec<u64>,
        alerts: Vec<(u64, u64)>,
        out_of_order: bool,
        visit: Option<(Vec<(usize, u64)>, u64)>,
    ) {
        let (newest, index, ready) = (self.position.newest(), self.position.index(), visit.is_some());
        self.flights.push_back(Flight { entries, alerts, newest, index, out_of_order, ready, visit });
    }

    /// Does what the engine's `next_commit` does.
    fn next_commit(&mut self) -> Commit {
        if let Some(commit) = self.position.take_unknown_commit() {
            return commit;
        }
        let mut commit = Commit { totals: Totals { commits: self.commits, ..Totals::default() }, ..Commit::default() };
        while commit.visit.is_none() && self.flights.front().is_some_and(|flight| flight.ready) {
            if self.flights[0].out_of_order && !self.flights.get(1).is_some_and(|flight| flight.ready) {
                break;
            }
            let flight = self.flights.pop_front().unwrap();
            commit.done.extend(flight.entries.into_iter().map(id));
            commit.alerts.extend(flight.alerts.into_iter().map(alert));
            (commit.newest, commit.index) = (flight.newest, flight.index);
            commit.visit = flight.visit.map(|(states, version)| {
                let chunks = states[0].0 as u16..states[states.len() - 1].0 as u16 + 1;
                let symbols =
                    states.into_iter().map(|(s, known)| (Arc::from(s.to_string()), Arc::from(known.to_le_bytes())));
                let complete = vec![(String::new(), version)];
                Visit { chunks, symbols: symbols.collect(), complete, ..Visit::default() }
            });
        }
        commit.repeated = self.repeated.iter().copied().map(id).collect();
        commit.totals.commits += u64::from(commit.is_counted());
        commit
    }

    /// Does one turn of the engine's loop. Returns whether there may be more to do.
    fn step(&mut self, server: &mut Server, count: usize, answer: Answer) -> bool {
        if !self.open || self.transit.is_some() {
            return true;
        }
        if !self.has_adopted {
            self.adopt(server, Answer::Comes);
        }
        let commit = self.next_commit();
        let count = if self.has_adopted { count } else { 0 };
        let read = (self.position.from(), count);
        let transit = Transit { commit, read, armed: self.armed, given_up: false };
        self.transit = Some(transit);
        match answer {
            Answer::Late => true,
            Answer::LostBefore => {
                self.give_up();
                self.transit = None;
                true
            }
            Answer::LostAfter => {
                self.give_up();
                self.arrive(server)
            }
            Answer::Comes => self.arrive(server),
        }
    }

    /// The request of a step reaches the server, whether or not its host still waits. Returns whether there may be more
    /// to do.
    fn arrive(&mut self, server: &mut Server) -> bool {
        let Some(Transit { commit, read, armed, given_up }) = self.transit.take() else { return true };
        let owner = (self.position.epoch(), self.position.token);
        let delivered = server.step(owner, armed, &commit, read);
        if given_up {
            return true;
        }
        let Some(delivered) = delivered else {
            self.position.set_unknown_commit(commit);
            self.open = false;
            return true;
        };
        self.position.confirm(&commit);
        self.commits = commit.totals.commits;
        commit.repeated.iter().for_each(|id| {
            self.repeated.remove(&id.millis);
        });
        let caught_up = read.1 > 0 && self.take_delivered(server, delivered, read.1);
        !self.has_adopted || !caught_up || !self.flights.is_empty() || !commit.is_empty()
    }

    /// Does what the engine does with a delivery. Returns whether there is nothing more to read for now.
    fn take_delivered(&mut self, server: &mut Server, mut delivered: Delivery, count: usize) -> bool {
        let in_flight: BTreeSet<u64> = self.flights.iter().flat_map(|flight| flight.entries.iter().copied()).collect();
        let (from, newest) = (self.position.from(), self.position.newest());
        let set_alone = |delivered: &mut Delivery, alone| {
            delivered.extent = delivered.extent.map(|extent| Extent { alone, ..extent });
        };
        set_alone(&mut delivered, self.alone);
        let mut unread = false;
        if self.position.misses(&delivered, count) {
            self.alone = server.foreign.is_empty();
            unread = server.pending.len() > in_flight.len() + self.repeated.len() + delivered.entries.len();
            set_alone(&mut delivered, self.alone && !unread);
        }
        let Progress { caught_up, skipped, repeated } = self.position.record_read(&delivered, count);
        assert_eq!(skipped, 0, "nothing was trimmed");
        let mut entries = delivered.entries;
        if from == ReadFrom::New {
            let again =
                entries.iter().map(|entry| entry.id).filter(|id| *id <= newest && !in_flight.contains(&id.millis));
            let again: BTreeSet<u64> = again.map(|id| id.millis).collect();
            entries.retain(|id| !in_flight.contains(&id.millis) && !again.contains(&id.millis));
            self.repeated.extend(again);
        } else {
            entries.retain(|id| !in_flight.contains(&id.millis) && !self.repeated.contains(&id.millis));
        }
        self.process(&entries);
        if repeated > 0 {
            server.move_group(self.position.committed_newest().millis);
        }
        if unread {
            self.position.reread_pending();
        }
        caught_up && !unread
    }

    fn process(&mut self, entries: &Entries) {
        if entries.is_empty() {
            return;
        }
        let out_of_order = self.position.begin_processing(entries);
        let entries: Vec<u64> = entries.iter().map(|entry| entry.id.millis).collect();
        let mut alerts = Vec::new();
        for entry in &entries {
            let known = &mut self.known[symbol(*entry)];
            *known = learn(self.version, *known, *entry);
            alerts.push((*entry, *known));
        }
        self.launch(entries, alerts, out_of_order, None);
        if out_of_order {
            self.visit(0..SYMBOLS as u16);
        }
    }

    fn work(&mut self) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| !flight.ready) {
            flight.ready = true;
        }
    }

    /// Does what the engine's `swap` does: all states are saved as of the change.
    fn swap(&mut self) {
        if self.open && self.transit.is_none() {
            self.version += 1;
            self.visit(0..SYMBOLS as u16);
        }
    }

    fn release(&mut self, server: &mut Server) {
        let idle = self.flights.is_empty() && !self.position.has_unknown_commit() && self.transit.is_none();
        if self.open && idle && self.position.epoch() == server.epoch {
            server.raise_epoch();
            self.open = false;
        }
    }

    fn adopt(&mut self, server: &mut Server, answer: Answer) {
        let idle = self.flights.is_empty() && !self.position.has_unknown_commit() && self.transit.is_none();
        if !self.open || !idle {
            return;
        }
        // The script looks at the epoch's value, which may be another host's of the same number.
        let ours = self.position.epoch() == server.epoch && !server.destroyed;
        if ours && !matches!(answer, Answer::LostBefore) {
            let foreign = std::mem::take(&mut server.foreign);
            if !foreign.is_empty() {
                self.position.forget_index();
            }
            server.pending.extend(foreign);
        }
        self.open = matches!(answer, Answer::Comes) && ours;
        self.alone = server.foreign.is_empty();
        self.has_adopted = true;
        if self.open && !server.pending.is_empty() {
            self.position.reread_pending();
        }
    }

    /// Runs until nothing is left, undisturbed.
    fn finish(&mut self, server: &mut Server, dice: &mut Dice) {
        for _ in 0..3 {
            let mut turns = 0;
            loop {
                if !self.open || self.armed != server.touched {
                    self.acquire(server, dice, Answer::Comes);
                }
                if !self.step(server, 3, Answer::Comes) {
                    break;
                }
                self.work();
                turns += 1;
                assert!(turns < 1000, "an undisturbed host never finishes");
            }
            self.adopt(server, Answer::Comes);
        }
    }
}

/// The event as it may happen now, if it may.
///
/// A group that was set back delivers processed entries once more, in one read. If a host dies or loses the answer
/// between that read and its next step, these entries stay pending like unprocessed ones, and are processed a second
/// time.
fn possible(event: Event, server: &Server) -> Option<Event> {
    let alerted = |entry: &u64| server.alerts.iter().any(|(alerted, _)| alerted == entry);
    if !server.set_back && !server.pending.iter().any(alerted) {
        return Some(event);
    }
    match event {
        Event::Step(host, count, _) => Some(Event::Step(host, count, Answer::Comes)),
        Event::Adopt(host, _) => Some(Event::Adopt(host, Answer::Comes)),
        Event::Acquire(..) | Event::Release(_) | Event::Crash(_) | Event::Remember | Event::GoBack => None,
        event => Some(event),
    }
}

fn happens(event: Event, server: &mut Server, remembered: &mut Server, hosts: &mut [Host; 2], dice: &mut Dice) {
    let Some(event) = possible(event, server) else { return };
    match event {
        Event::Remember => *remembered = server.clone(),
        Event::GoBack => {
            server.go_back(remembered);
            // Requests that are on their way are lost with their connections.
            for host in hosts {
                host.give_up();
                host.transit = None;
            }
        }
        Event::Destroy => server.destroy_group(hosts),
        Event::SetBack(to) => server.set_group_back(to, hosts),
        Event::Add(entries) => server.added += entries,
        Event::Foreign(_) | Event::ReadAsUs(_) if server.destroyed => {}
        Event::Foreign(count) => {
            let entries = server.deliver(count);
            server.foreign.extend(entries);
        }
        Event::ReadAsUs(count) => {
            let entries = server.deliver(count);
            server.pending.extend(&entries);
            server.read_as_us.extend(entries);
        }
        Event::Acquire(host, answer) => hosts[host].acquire(server, dice, answer),
        Event::Release(host) => hosts[host].release(server),
        Event::Step(host, count, answer) => drop(hosts[host].step(server, count, answer)),
        Event::Arrive(host) => drop(hosts[host].arrive(server)),
        Event::Work(host) => hosts[host].work(),
        Event::Visit(host, chunk) if hosts[host].open => hosts[host].visit(chunk..chunk + 1),
        Event::Visit(..) => {}
        Event::Swap(host) => hosts[host].swap(),
        Event::Adopt(host, answer) => hosts[host].adopt(server, answer),
        Event::Crash(host) => {
            // Its last request may still be on its way, armed as before the crash.
            let before = std::mem::take(&mut hosts[host]);
            if let Some(transit) = before.transit {
                let owner = (before.position.epoch(), before.position.token);
                server.step(owner, transit.armed, &transit.commit, transit.read);
            }
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let host = || 0..2usize;
    let answer = || prop_oneof![6 => Just(Answer::Comes), 1 => Just(Answer::LostBefore), 1 => Just(Answer::LostAfter)];
    let step = || prop_oneof![8 => answer(), 1 => Just(Answer::Late)];
    prop_oneof![
        4 => (1..6u64).prop_map(Event::Add),
        1 => (1..4usize).prop_map(Event::Foreign),
        1 => (1..4usize).prop_map(Event::ReadAsUs),
        3 => (host(), answer()).prop_map(|(host, answer)| Event::Acquire(host, answer)),
        1 => host().prop_map(Event::Release),
        14 => (host(), 0..5usize, step()).prop_map(|(host, count, answer)| Event::Step(host, count, answer)),
        2 => host().prop_map(Event::Arrive),
        10 => host().prop_map(Event::Work),
        2 => (host(), 0..SYMBOLS as u16).prop_map(|(host, chunk)| Event::Visit(host, chunk)),
        1 => host().prop_map(Event::Swap),
        1 => (host(), answer()).prop_map(|(host, answer)| Event::Adopt(host, answer)),
        1 => host().prop_map(Event::Crash),
        1 => Just(Event::Remember),
        1 => Just(Event::GoBack),
        1 => Just(Event::Destroy),
        1 => (0..30u64).prop_map(Event::SetBack),
    ]
}

fn cases() -> u32 {
    let cases = std::env::var("TICKHOUND_MODEL_CASES").ok();
    cases.map_or(CASES, |cases| cases.parse().expect("TICKHOUND_MODEL_CASES is a number"))
}

/// Checks that each alert was raised with exactly the state that the alerts before it give, and that the versions of
/// the detector never go back.
fn assert_known(server: &Server) -> Result<(), TestCaseError> {
    let mut known: BTreeMap<usize, u64> = BTreeMap::new();
    let mut version = 0;
    for (entry, carried) in &server.alerts {
        let knows = known.entry(symbol(*entry)).or_default();
        let made_by = (version..version + 100).find(|version| learn(*version, *knows, *entry) == *carried);
        prop_assert!(made_by.is_some(), "entry {} was processed with another state", entry);
        (version, *knows) = (made_by.unwrap(), *carried);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// Each entry is processed once, by a host with exactly the state of the commits before it.
    #[test]
    fn whatever_happens_each_entry_is_processed_once_and_nothing_is_forgotten(
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut server = Server::default();
        let mut remembered = Server::default();
        let mut hosts = <[Host; 2]>::default();
        let mut dice = Dice::default();
        let in_order = !events.iter().any(|event| matches!(event, Event::Foreign(_) | Event::ReadAsUs(_)));
        for event in events {
            happens(event, &mut server, &mut remembered, &mut hosts, &mut dice);
        }
        // Entries that were delivered again are acknowledged before a host dies.
        for turn in 0..60 {
            let step = Event::Step(turn % 2, 3, Answer::Comes);
            happens(step, &mut server, &mut remembered, &mut hosts, &mut dice);
        }
        // One host is left and has time. The last request of the other one may still arrive.
        happens(Event::Crash(1), &mut server, &mut remembered, &mut hosts, &mut dice);
        hosts[0].arrive(&mut server);
        hosts[0].finish(&mut server, &mut dice);
        prop_assert_eq!(server.next(), None);
        prop_assert!(server.pending.is_empty() && server.foreign.is_empty());
        let order: Vec<u64> = server.alerts.iter().map(|(entry, _)| *entry).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        // Entries that the server has lost may have been in flight: they are processed once or not at all.
        let is_new = |entry: &u64| !server.forgotten.contains(entry);
        prop_assert!(sorted.is_sorted_by(|a, b| a < b), "twice: {:?}", sorted);
        let known: Vec<u64> = sorted.iter().copied().filter(is_new).collect();
        prop_assert_eq!(known, (1..=server.added).filter(is_new).collect::<Vec<_>>());
        prop_assert!(!in_order || order == sorted, "not in the order of the stream: {:?}", order);
        if !server.outlived {
            assert_known(&server)?;
        }
    }
}

/// The server's counts show how many entries were trimmed before they were delivered.
#[test]
fn entries_that_vanish_unread_are_counted() {
    let delivered = |from: u64, to: u64, added: u64, removed: u64, alone: bool| {
        let mut entries = Entries::default();
        (from..=to).for_each(|entry| entries.push_entry(id(entry)));
        Delivery { entries, extent: Some(Extent { added, removed, alone }), newest: Some(id(added)) }
    };
    let start = || {
        let mut position = Position::default();
        position.resume(&Acquisition { epoch: 1, index: Some(0), ..Acquisition::default() }, false);
        position.from = ReadFrom::New;
        position
    };
    let read = |position: &mut Position, delivered: Delivery| {
        let progress = position.record_read(&delivered, 10);
        position.begin_processing(&delivered.entries);
        (progress.skipped, position.index())
    };
    // Trimmed behind the reader: nothing is lost.
    let mut position = start();
    assert_eq!(read(&mut position, delivered(1, 10, 100, 0, true)), (0, Some(10)));
    assert_eq!(read(&mut position, delivered(11, 20, 100, 10, true)), (0, Some(20)));
    // Trimmed in front of the reader: 21 to 50 are lost.
    assert_eq!(read(&mut position, delivered(51, 60, 100, 50, true)), (30, Some(60)));
    // Deleted from the middle: noticed at the end of the stream.
    assert_eq!(read(&mut position, delivered(95, 100, 100, 84, true)), (34, Some(100)));
    // Another consumer received some of them: losses are unknown until the end of the stream.
    let mut position = start();
    assert_eq!(read(&mut position, delivered(1, 10, 100, 0, false)), (0, None));
    assert_eq!(read(&mut position, delivered(51, 60, 100, 45, true)), (0, None));
    assert_eq!(read(&mut position, delivered(97, 100, 100, 45, true)), (0, Some(100)));
}
