//! The commit protocol against a model of the server: two hosts, every order of events.
//!
//! The model's server does what Redis does in one transaction, and nothing more. Its hosts have the
//! real [`Position`]; what they know of a symbol is a hash of all entries worked so far, which the
//! alert of each entry carries. So an entry that is lost, worked twice, or worked by a host that has
//! forgotten or remembers too much, shows in the alerts.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use proptest::prelude::*;

use super::*;
use crate::{
    checkpoint::Visit,
    event::{Alert, Direction},
    stream::Totals,
};

const SYMBOLS: usize = 3;

/// As of which entry, and what was known.
type Chunk = (EntryId, u64);

#[derive(Clone, Copy, Debug)]
enum Answer {
    Comes,
    /// The request never reached the server.
    LostBefore,
    /// The server did it, and the host does not know.
    LostAfter,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Add(u64),
    /// Another consumer of the group takes entries, and dies.
    Foreign(usize),
    /// The lease has run out, or so the host thinks.
    Acquire(usize, Answer),
    Step(usize, usize, Answer),
    /// The first unfinished batch is worked.
    Work(usize),
    Visit(usize, u16),
    Adopt(usize, Answer),
    Crash(usize),
    /// A replica has taken the server's place; it knows what the server knew a while ago.
    Remember,
    GoBack,
    /// Somebody destroys the group.
    Destroy,
}

#[derive(Clone, Default)]
struct Server {
    added: u64,
    /// Entries that were added, and that it does not know any more.
    forgotten: BTreeSet<u64>,
    /// A host has gone on with what only it knew: alerts that the server has forgotten, too.
    outlived: bool,
    delivered: u64,
    /// Given to our consumer and not acknowledged; to another one.
    pending: BTreeSet<u64>,
    foreign: BTreeSet<u64>,
    epoch: u64,
    /// Number, epoch and newest entry of the last commit.
    last_commit: Option<(u64, u64, EntryId)>,
    chunks: [Chunk; SYMBOLS],
    /// Entry and what was known of its symbol, in the order of publishing.
    alerts: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct Flight {
    entries: Vec<u64>,
    alerts: Vec<(u64, u64)>,
    newest: EntryId,
    out_of_order: bool,
    ready: bool,
    visit: Option<Vec<(usize, u64)>>,
}

#[derive(Default)]
struct Host {
    position: Position,
    /// Whether a session is open; an error closes it.
    open: bool,
    known: [u64; SYMBOLS],
    flights: VecDeque<Flight>,
    commits: u64,
}

fn id(entry: u64) -> EntryId {
    EntryId { millis: entry, seq: 0 }
}

fn symbol(entry: u64) -> usize {
    (entry % SYMBOLS as u64) as usize
}

/// What is known after an entry, from what was known before.
fn learn(known: u64, entry: u64) -> u64 {
    (known ^ entry).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
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

impl Server {
    /// The first entry after the last one that was given to anybody.
    fn next(&self) -> Option<u64> {
        (self.delivered + 1..=self.added).find(|entry| !self.forgotten.contains(entry))
    }

    /// One transaction; `None`: fenced.
    fn step(&mut self, epoch: u64, commit: &Commit, from: From, count: usize) -> Option<Entries> {
        if epoch != self.epoch {
            return None;
        }
        for done in &commit.done {
            self.pending.remove(&done.millis);
        }
        self.alerts.extend(commit.alerts.iter().map(|alert| (alert.entry.millis, alert.time)));
        if commit.is_counted() {
            self.last_commit = Some((commit.totals.commits, epoch, commit.newest));
        }
        if let Some(visit) = &commit.visit {
            for chunk in visit.chunks.clone() {
                self.chunks[usize::from(chunk)].0 = commit.newest;
            }
            for (name, packed) in &visit.symbols {
                let known = u64::from_le_bytes(packed[..].try_into().unwrap());
                self.chunks[name.parse::<usize>().unwrap()].1 = known;
            }
        }
        let mut entries = Entries::default();
        match from {
            From::Pending(after) => {
                self.pending
                    .iter()
                    .filter(|entry| id(**entry) > after)
                    .take(count)
                    .for_each(|e| entries.push_entry(id(*e)));
            }
            From::New => {
                for _ in 0..count {
                    let Some(next) = self.next() else { break };
                    self.delivered = next;
                    self.pending.insert(next);
                    entries.push_entry(id(next));
                }
            }
        }
        Some(entries)
    }
}

impl Host {
    /// As the engine's `resume` and `restore`.
    fn acquire(&mut self, server: &mut Server, answer: Answer) {
        self.open = false;
        if matches!(answer, Answer::LostBefore) {
            return;
        }
        server.epoch += 1;
        if matches!(answer, Answer::LostAfter) {
            return;
        }
        let (commits, committed_under, newest) = server.last_commit.map_or((0, 0, None), |(n, e, id)| (n, e, Some(id)));
        let acquired = Acquired {
            epoch: server.epoch,
            totals: Totals { commits, ..Totals::default() },
            committed_under,
            newest,
            oldest: (1..=server.added).find(|entry| !server.forgotten.contains(entry)).map(id),
            last_delivered: id(server.delivered),
            ..Acquired::default()
        };
        if let Some(commit) = self.position.settle(&acquired) {
            self.commits = commit.totals.commits;
        }
        let in_hand = self.position.open_entries().iter().map(|id| id.millis);
        let held = in_hand
            .chain(self.flights.iter().flat_map(|flight| flight.entries.iter().copied()))
            .all(|entry| server.pending.contains(&entry));
        self.open = true;
        match self.position.resume(&acquired, held) {
            Resume::Undisturbed => {}
            // The server has gone back to its beginning, and has kept its stream.
            Resume::Emptied => {
                server.outlived = true;
                self.visit(0..SYMBOLS as u16);
            }
            Resume::Afresh => {
                self.flights.clear();
                self.commits = commits;
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

    fn restore(&mut self, server: &Server, last: EntryId) {
        self.known = server.chunks.map(|(_, known)| known);
        let start = server.chunks.iter().map(|(at, _)| at.millis).min().unwrap();
        for entry in start + 1..=last.millis {
            let absent = [&server.pending, &server.foreign, &server.forgotten].iter().any(|set| set.contains(&entry));
            if !absent && id(entry) > server.chunks[symbol(entry)].0 {
                self.known[symbol(entry)] = learn(self.known[symbol(entry)], entry);
            }
        }
    }

    fn visit(&mut self, chunks: std::ops::Range<u16>) {
        let states = chunks.map(|chunk| (usize::from(chunk), self.known[usize::from(chunk)])).collect();
        let newest = self.position.newest();
        let (entries, alerts) = (Vec::new(), Vec::new());
        self.flights.push_back(Flight {
            entries,
            alerts,
            newest,
            out_of_order: false,
            ready: true,
            visit: Some(states),
        });
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
            commit.newest = flight.newest;
            commit.visit = flight.visit.map(|states| {
                let chunks = states[0].0 as u16..states[states.len() - 1].0 as u16 + 1;
                let symbols =
                    states.into_iter().map(|(s, known)| (Arc::from(s.to_string()), Arc::from(known.to_le_bytes())));
                Visit { chunks, symbols: symbols.collect(), ..Visit::default() }
            });
        }
        commit.totals.commits += u64::from(commit.is_counted());
        commit
    }

    /// As one turn of the engine's `work`. Whether there may be more to do.
    fn step(&mut self, server: &mut Server, count: usize, answer: Answer) -> bool {
        if !self.open {
            return true;
        }
        let commit = self.next_commit();
        let from = self.position.from();
        if matches!(answer, Answer::LostBefore) {
            self.position.unsettled(commit);
            self.open = false;
            return true;
        }
        let delivered = server.step(self.position.epoch(), &commit, from, count);
        let (Answer::Comes, Some(entries)) = (answer, delivered) else {
            self.position.unsettled(commit);
            self.open = false;
            return true;
        };
        self.position.committed(&commit);
        self.commits = commit.totals.commits;
        let delivered = Delivered { entries, extent: None };
        let caught_up = count > 0 && self.position.read(&delivered, count).caught_up;
        let entries = delivered.entries;
        if !entries.is_empty() {
            let out_of_order = self.position.works(&entries);
            let worked: Vec<u64> = entries.iter().map(|entry| entry.id.millis).collect();
            let mut alerts = Vec::new();
            for entry in &worked {
                let known = &mut self.known[symbol(*entry)];
                *known = learn(*known, *entry);
                alerts.push((*entry, *known));
            }
            let newest = self.position.newest();
            self.flights.push_back(Flight { entries: worked, alerts, newest, out_of_order, ready: false, visit: None });
            if out_of_order {
                self.visit(0..SYMBOLS as u16);
            }
        }
        !caught_up || !self.flights.is_empty() || !commit.is_empty()
    }

    fn work(&mut self) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| !flight.ready) {
            flight.ready = true;
        }
    }

    fn adopt(&mut self, server: &mut Server, answer: Answer) {
        let idle = self.flights.is_empty() && !self.position.has_unsettled();
        if !self.open || !idle {
            return;
        }
        if self.position.epoch() == server.epoch && !matches!(answer, Answer::LostBefore) {
            let foreign = std::mem::take(&mut server.foreign);
            server.pending.extend(foreign);
        }
        self.open = matches!(answer, Answer::Comes) && self.position.epoch() == server.epoch;
        self.position.reread_pending();
    }
}

fn happens(event: Event, server: &mut Server, remembered: &mut Server, hosts: &mut [Host; 2]) {
    match event {
        Event::Remember => *remembered = server.clone(),
        Event::GoBack => {
            // Ids and epochs never come twice: they are made of the time.
            let (added, epoch) = (server.added, server.epoch);
            let outlived = server.outlived;
            *server = Server { epoch: epoch.max(remembered.epoch), outlived, ..remembered.clone() };
            server.forgotten.extend(server.added + 1..=added);
            server.added = added;
            hosts.iter_mut().for_each(|host| host.open = false);
        }
        Event::Destroy => {
            let newest = server.last_commit.map_or(0, |(.., newest)| newest.millis);
            // What is pending and older than the last commit would be lost; nobody can help that.
            if server.foreign.is_empty() && server.pending.iter().all(|entry| *entry > newest) {
                (server.delivered, server.pending) = (newest, BTreeSet::new());
                hosts.iter_mut().for_each(|host| host.open = false);
            }
        }
        Event::Add(entries) => server.added += entries,
        Event::Foreign(count) => {
            for _ in 0..count {
                let Some(next) = server.next() else { break };
                server.delivered = next;
                server.foreign.insert(next);
            }
        }
        Event::Acquire(host, answer) => hosts[host].acquire(server, answer),
        Event::Step(host, count, answer) => drop(hosts[host].step(server, count, answer)),
        Event::Work(host) => hosts[host].work(),
        Event::Visit(host, chunk) if hosts[host].open => hosts[host].visit(chunk..chunk + 1),
        Event::Visit(..) => {}
        Event::Adopt(host, answer) => hosts[host].adopt(server, answer),
        Event::Crash(host) => hosts[host] = Host::default(),
    }
}

fn event() -> impl Strategy<Value = Event> {
    let host = || 0..2usize;
    let answer = || prop_oneof![6 => Just(Answer::Comes), 1 => Just(Answer::LostBefore), 1 => Just(Answer::LostAfter)];
    prop_oneof![
        4 => (1..6u64).prop_map(Event::Add),
        1 => (1..4usize).prop_map(Event::Foreign),
        3 => (host(), answer()).prop_map(|(host, answer)| Event::Acquire(host, answer)),
        14 => (host(), 0..5usize, answer()).prop_map(|(host, count, answer)| Event::Step(host, count, answer)),
        10 => host().prop_map(Event::Work),
        2 => (host(), 0..SYMBOLS as u16).prop_map(|(host, chunk)| Event::Visit(host, chunk)),
        1 => (host(), answer()).prop_map(|(host, answer)| Event::Adopt(host, answer)),
        1 => host().prop_map(Event::Crash),
        1 => Just(Event::Remember),
        1 => Just(Event::GoBack),
        1 => Just(Event::Destroy),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Each entry is worked once, by a host that knew exactly what had been committed before it.
    #[test]
    fn whatever_happens_each_entry_is_worked_once_and_nothing_is_forgotten(
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut server = Server::default();
        let mut remembered = Server::default();
        let mut hosts = <[Host; 2]>::default();
        let foreigners = events.iter().any(|event| matches!(event, Event::Foreign(_)));
        for event in events {
            happens(event, &mut server, &mut remembered, &mut hosts);
        }
        // One host is left, and has time.
        let survivor = &mut hosts[0];
        for adopted in [false, true] {
            survivor.acquire(&mut server, Answer::Comes);
            if adopted {
                survivor.adopt(&mut server, Answer::Comes);
            }
            while survivor.step(&mut server, 3, Answer::Comes) {
                survivor.work();
            }
        }
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
        prop_assert!(foreigners || order == sorted, "not in the order of the stream: {:?}", order);
        let mut known: BTreeMap<usize, u64> = BTreeMap::new();
        for (entry, told) in &server.alerts {
            let knows = known.entry(symbol(*entry)).or_default();
            *knows = learn(*knows, *entry);
            prop_assert!(server.outlived || told == knows, "entry {} was worked by a host that knew something else", entry);
        }
    }
}

/// What a server counts shows which entries vanished before the group was given them.
#[test]
fn entries_that_vanish_unread_are_counted() {
    let delivered = |from: u64, to: u64, added: u64, removed: u64, alone: bool| {
        let mut entries = Entries::default();
        (from..=to).for_each(|entry| entries.push_entry(id(entry)));
        Delivered { entries, extent: Some(Extent { added, removed, alone }) }
    };
    let start = || {
        let mut position = Position::default();
        position.resume(&Acquired { epoch: 1, index: Some(0), ..Acquired::default() }, true);
        position.from = From::New;
        position
    };
    let read = |position: &mut Position, delivered: Delivered| {
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
