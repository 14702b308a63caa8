//! The commit protocol against a model of the server: two hosts, every order of events.
//!
//! The model's server does what Redis and our scripts do, and nothing more: it counts epochs as `INCR` does, so that a
//! replica which is promoted too early hands out an epoch twice; and a step happens if the epoch's key was not touched
//! since the step was armed, as with `WATCH`. Its hosts have the real [`Position`]; what they know of a symbol is a hash
//! of all entries processed so far, which the alert of each entry carries. So an entry that is lost, processed twice, or
//! processed by a host that has forgotten or remembers too much, or by another version of the detector than should be
//! in force, shows in the alerts.
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
    event::{Alert, Direction},
    stream::{Extent, Totals},
};

const SYMBOLS: usize = 3;

/// Cases of a normal test run; a hundred thousand take half a minute in release.
const CASES: u32 = 20_000;

/// As of which entry, and what was known.
type Chunk = (EntryId, u64);

#[derive(Clone, Copy, Debug)]
enum Answer {
    Comes,
    /// The request never reached the server.
    LostBefore,
    /// The server did it, and the host does not know.
    LostAfter,
    /// The host, or its link, is paused: the request reaches the server after whatever happens meanwhile.
    Late,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Add(u64),
    /// Another consumer of the group takes entries, and dies.
    Foreign(usize),
    /// Another client takes entries under our consumer's name, and does nothing with them.
    ReadAsUs(usize),
    /// The lease has run out, or so the host thinks.
    Acquire(usize, Answer),
    Release(usize),
    Step(usize, usize, Answer),
    /// A request that was late reaches the server.
    Arrive(usize),
    /// The first unfinished batch is processed.
    Work(usize),
    Visit(usize, u16),
    /// A plugin is exchanged for one that behaves otherwise.
    Swap(usize),
    Adopt(usize, Answer),
    Crash(usize),
    /// A replica has taken the server's place; it knows what the server knew a while ago.
    Remember,
    GoBack,
    /// Somebody destroys the group.
    Destroy,
    /// Somebody sets the group back, to this part of where it is.
    SetBack(u64),
}

#[derive(Clone, Default)]
struct Server {
    added: u64,
    /// Entries that were added, and that it does not know any more.
    forgotten: BTreeSet<u64>,
    /// A host has gone on with what only it knew: alerts that the server has forgotten, too.
    outlived: bool,
    /// Somebody has destroyed the group, and nobody has created it again.
    destroyed: bool,
    /// Somebody has set the group back, and nobody has moved it forward again.
    set_back: bool,
    delivered: u64,
    /// Given to our consumer and not acknowledged; to another one.
    pending: BTreeSet<u64>,
    foreign: BTreeSet<u64>,
    /// Given to somebody who reads under our consumer's name.
    read_as_us: BTreeSet<u64>,
    epoch: u64,
    /// Times that the epoch's key was written; each one fails the steps that were armed before.
    touched: u64,
    last_commit: Option<CommitId>,
    index: Option<u64>,
    chunks: [Chunk; SYMBOLS],
    /// The version of the detector that made what is saved.
    version: u64,
    /// Entry and what was known of its symbol, in the order of publishing.
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
    /// What the server had written to the epoch's key when the next step was armed.
    armed: u64,
    transit: Option<Transit>,
    known: [u64; SYMBOLS],
    version: u64,
    flights: VecDeque<Flight>,
    repeated: BTreeSet<u64>,
    commits: u64,
    /// Whether the group was seen to have no other consumer.
    alone: bool,
    /// Whether it has looked, since it acquired, what others hold.
    looked: bool,
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

/// What a version of the detector knows after an entry, from what was known before.
fn learn(version: u64, known: u64, entry: u64) -> u64 {
    (known ^ entry ^ (version << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

fn alert((entry, known): (u64, u64)) -> Alert {
    Alert {
        id: String::new(),
        detector: String::new(),
        plugin: String::new(),
        version: String::new(),
        symbol: String::new(),
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
    /// The first entry after the last one that was given to anybody.
    fn next(&self) -> Option<u64> {
        (self.delivered + 1..=self.added).find(|entry| !self.forgotten.contains(entry))
    }

    fn raise_epoch(&mut self) {
        self.epoch += 1;
        self.touched += 1;
    }

    /// One transaction; `None`: fenced, or the read failed, which takes nothing back.
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

    /// As `find_group`: a group that vanished is created again, and one that was set back is moved forward.
    fn find_group(&mut self) {
        if std::mem::take(&mut self.destroyed) {
            self.delivered = self.last_commit.map_or(0, |commit| commit.newest.millis);
        }
        self.set_back = false;
        if let Some(last) = self.last_commit {
            self.move_group(last.newest.millis);
        }
    }

    /// As `set_forward`: to what is committed or pending.
    fn move_group(&mut self, committed: u64) {
        let pending = self.pending.iter().chain(&self.foreign).max();
        self.delivered = self.delivered.max(committed).max(pending.copied().unwrap_or(0));
        self.set_back = false;
    }
}

impl Host {
    /// As the engine's `resume` and `restore`.
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
            // Before the first commit it is known for a group that was created just now.
            index: if newest.is_some() { server.index } else { (server.delivered == 0).then_some(0) },
            oldest: (1..=server.added).find(|entry| !server.forgotten.contains(entry)).map(id),
            last_delivered: id(server.delivered),
            ..Acquisition::default()
        };
        if let Some(commit) = self.position.settle(&acquired) {
            self.commits = commit.totals.commits;
        }
        (self.open, self.looked, self.armed) = (true, false, server.touched);
        let unknown = |entry: &u64| {
            let known = [&server.pending, &server.foreign].iter().any(|set| set.contains(entry));
            !known && server.forgotten.contains(entry)
        };
        let forgotten = self.held().iter().any(unknown);
        match self.position.resume(&acquired, forgotten) {
            Resume::Undisturbed => {}
            // The server has gone back to its beginning, and has kept its stream.
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
                self.position.restored();
            }
        }
    }

    /// Entries between read and commit.
    fn held(&self) -> BTreeSet<u64> {
        let open = self.position.open_entries().iter().map(|id| id.millis);
        let on_their_way = self.transit.iter().flat_map(|transit| transit.commit.done.iter().map(|id| id.millis));
        open.chain(on_their_way).chain(self.flights.iter().flat_map(|flight| flight.entries.iter().copied())).collect()
    }

    /// An error, or the end of patience: whether what is on its way happens is not known.
    fn give_up(&mut self) {
        self.open = false;
        if let Some(transit) = self.transit.as_mut().filter(|transit| !transit.given_up) {
            transit.given_up = true;
            self.position.unsettled(copy(&transit.commit));
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

    /// As the engine's `next_commit`.
    fn next_commit(&mut self) -> Commit {
        if let Some(commit) = self.position.take_unsettled() {
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

    /// As one turn of the engine's `work`. Whether there may be more to do.
    fn step(&mut self, server: &mut Server, count: usize, answer: Answer) -> bool {
        if !self.open || self.transit.is_some() {
            return true;
        }
        if !self.looked {
            self.adopt(server, Answer::Comes);
        }
        let commit = self.next_commit();
        let count = if self.looked { count } else { 0 };
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

    /// The request of a step reaches the server, whether or not its host still waits. Whether there may be more to do.
    fn arrive(&mut self, server: &mut Server) -> bool {
        let Some(Transit { commit, read, armed, given_up }) = self.transit.take() else { return true };
        let owner = (self.position.epoch(), self.position.token);
        let delivered = server.step(owner, armed, &commit, read);
        if given_up {
            return true;
        }
        let Some(delivered) = delivered else {
            self.position.unsettled(commit);
            self.open = false;
            return true;
        };
        self.position.committed(&commit);
        self.commits = commit.totals.commits;
        commit.repeated.iter().for_each(|id| {
            self.repeated.remove(&id.millis);
        });
        let caught_up = read.1 > 0 && self.take_delivered(server, delivered, read.1);
        !self.looked || !caught_up || !self.flights.is_empty() || !commit.is_empty()
    }

    /// As the engine's. Whether there is nothing more to read for now.
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
        let Progress { caught_up, skipped, repeated } = self.position.read(&delivered, count);
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
        let out_of_order = self.position.works(entries);
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

    /// As the engine's `swap`: what is saved with it is as of the change.
    fn swap(&mut self) {
        if self.open && self.transit.is_none() {
            self.version += 1;
            self.visit(0..SYMBOLS as u16);
        }
    }

    fn adopt(&mut self, server: &mut Server, answer: Answer) {
        let idle = self.flights.is_empty() && !self.position.has_unsettled() && self.transit.is_none();
        if !self.open || !idle {
            return;
        }
        // The script looks at the epoch's value, which may be another host's of the same number.
        let ours = self.position.epoch() == server.epoch && !server.destroyed;
        if ours && !matches!(answer, Answer::LostBefore) {
            let foreign = std::mem::take(&mut server.foreign);
            if !foreign.is_empty() {
                self.position.count_anew();
            }
            server.pending.extend(foreign);
        }
        self.open = matches!(answer, Answer::Comes) && ours;
        self.alone = server.foreign.is_empty();
        self.looked = true;
        if self.open && !server.pending.is_empty() {
            self.position.reread_pending();
        }
    }

    /// Goes on until nothing is left, as a host that nothing disturbs any more.
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
                assert!(turns < 1000, "a host that nothing disturbs comes to no end");
            }
            self.adopt(server, Answer::Comes);
        }
    }
}

fn happens(event: Event, server: &mut Server, remembered: &mut Server, hosts: &mut [Host; 2], dice: &mut Dice) {
    // A group that is set back hands out processed entries once more, in one read. Who dies or loses the answer between
    // that read and the next step leaves them pending like entries that were not processed: they are, a second time.
    let alerted = |entry: &u64| server.alerts.iter().any(|(alerted, _)| alerted == entry);
    let set_back = server.set_back || server.pending.iter().any(alerted);
    let event = match event {
        Event::Step(host, count, _) if set_back => Event::Step(host, count, Answer::Comes),
        Event::Adopt(host, _) if set_back => Event::Adopt(host, Answer::Comes),
        Event::Acquire(..) | Event::Release(_) | Event::Crash(_) | Event::Remember | Event::GoBack if set_back => {
            return;
        }
        event => event,
    };
    match event {
        Event::Remember => *remembered = server.clone(),
        Event::GoBack => {
            // Ids never come twice, since they are made of the time; epochs do.
            let (added, touched, outlived) = (server.added, server.touched + 1, server.outlived);
            *server = Server { touched, outlived, ..remembered.clone() };
            server.forgotten.extend(server.added + 1..=added);
            server.added = added;
            // What was on its way is gone with its connection.
            for host in hosts {
                host.give_up();
                host.transit = None;
            }
        }
        Event::Destroy => {
            // What is pending and older than the last commit, or than what is committed next, would be lost; nobody can
            // help that.
            let newest = server.last_commit.map_or(u64::MAX, |commit| commit.newest.millis);
            let passed_by = |host: &Host| {
                let held = host.held();
                !held.is_empty() && !server.pending.is_subset(&held)
            };
            let held_by_none = server.foreign.is_empty() && server.pending.is_disjoint(&server.read_as_us);
            let held_by_none = held_by_none && !hosts.iter().any(passed_by);
            if held_by_none && server.pending.iter().all(|entry| *entry > newest) {
                (server.destroyed, server.pending) = (true, BTreeSet::new());
            }
        }
        Event::SetBack(to) => {
            // Which entries were held unprocessed by somebody else, nobody can tell afterwards.
            let held_by_none = server.foreign.is_empty() && server.pending.is_disjoint(&server.read_as_us);
            let under_way = hosts.iter().any(|host| host.transit.is_some());
            if held_by_none && !under_way && server.last_commit.is_some() {
                (server.delivered, server.set_back) = (server.delivered.min(to), true);
            }
        }
        Event::Add(entries) => server.added += entries,
        Event::Foreign(_) | Event::ReadAsUs(_) if server.destroyed => {}
        Event::Foreign(count) | Event::ReadAsUs(count) => {
            // Somebody who reads after the group was set back is given what was processed; nobody can help that.
            server.find_group();
            for _ in 0..count {
                let Some(next) = server.next() else { break };
                server.delivered = next;
                match event {
                    Event::Foreign(_) => server.foreign.insert(next),
                    _ => server.pending.insert(next) & server.read_as_us.insert(next),
                };
            }
        }
        Event::Acquire(host, answer) => hosts[host].acquire(server, dice, answer),
        Event::Release(host) => {
            let host = &mut hosts[host];
            let idle = host.flights.is_empty() && !host.position.has_unsettled() && host.transit.is_none();
            if host.open && idle && host.position.epoch() == server.epoch {
                server.raise_epoch();
                host.open = false;
            }
        }
        Event::Step(host, count, answer) => drop(hosts[host].step(server, count, answer)),
        Event::Arrive(host) => drop(hosts[host].arrive(server)),
        Event::Work(host) => hosts[host].work(),
        Event::Visit(host, chunk) if hosts[host].open => hosts[host].visit(chunk..chunk + 1),
        Event::Visit(..) => {}
        Event::Swap(host) => hosts[host].swap(),
        Event::Adopt(host, answer) => hosts[host].adopt(server, answer),
        Event::Crash(host) => {
            // Its last request may still be on its way, under what was watched for it.
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

/// Each alert was raised by a host that knew exactly what the alerts before it tell, and versions of the detector follow
/// each other: none comes back.
fn assert_known(server: &Server) -> Result<(), TestCaseError> {
    let mut known: BTreeMap<usize, u64> = BTreeMap::new();
    let mut version = 0;
    for (entry, told) in &server.alerts {
        let knows = known.entry(symbol(*entry)).or_default();
        let made_by = (version..version + 100).find(|version| learn(*version, *knows, *entry) == *told);
        prop_assert!(made_by.is_some(), "entry {} was processed by a host that knew something else", entry);
        (version, *knows) = (made_by.unwrap(), *told);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// Each entry is processed once, by a host that knew exactly what had been committed before it.
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
        // What was handed out again is acknowledged before anybody dies of it.
        for turn in 0..60 {
            let step = Event::Step(turn % 2, 3, Answer::Comes);
            happens(step, &mut server, &mut remembered, &mut hosts, &mut dice);
        }
        // One host is left, and has time; what the other one sent last may still arrive.
        happens(Event::Crash(1), &mut server, &mut remembered, &mut hosts, &mut dice);
        hosts[0].arrive(&mut server);
        hosts[0].finish(&mut server, &mut dice);
        prop_assert_eq!(server.next(), None);
        prop_assert!(server.pending.is_empty() && server.foreign.is_empty());
        let order: Vec<u64> = server.alerts.iter().map(|(entry, _)| *entry).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        // What the server has forgotten may have been in the hands of a host: once, or not at all.
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

/// What a server counts shows which entries vanished before the group was given them.
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
        let progress = position.read(&delivered, 10);
        position.works(&delivered.entries);
        (progress.skipped, position.index())
    };
    // Trimmed behind the reader: nothing is lost.
    let mut position = start();
    assert_eq!(read(&mut position, delivered(1, 10, 100, 0, true)), (0, Some(10)));
    assert_eq!(read(&mut position, delivered(11, 20, 100, 10, true)), (0, Some(20)));
    // In front of it: 21 to 50 are gone.
    assert_eq!(read(&mut position, delivered(51, 60, 100, 50, true)), (30, Some(60)));
    // Deleted from the middle: noticed when all is read.
    assert_eq!(read(&mut position, delivered(95, 100, 100, 84, true)), (34, Some(100)));
    // Another consumer took some of them: nothing can be said until all is read.
    let mut position = start();
    assert_eq!(read(&mut position, delivered(1, 10, 100, 0, false)), (0, None));
    assert_eq!(read(&mut position, delivered(51, 60, 100, 45, true)), (0, None));
    assert_eq!(read(&mut position, delivered(97, 100, 100, 45, true)), (0, Some(100)));
}
