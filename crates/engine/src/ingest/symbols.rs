//! The known symbols: their numbers, their shards, and which of them have been silent the longest.
//!
//! What holds: the known symbols, and the order in which they are evicted, depend on the entries alone. A restart finds
//! the same ones: it restores the arrival of each symbol's last tick with its state, and an eviction is committed together
//! with the states of all symbols that stay, so that no replay crosses one. The venue that a symbol comes from is that of
//! its first tick that names one, and is saved with the state, too.

use std::{hash::BuildHasher, ops::Range, sync::Arc};

use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use crate::plugin::GROUP_MARK;
use tickhound_core::{
    checkpoint::{CHUNKS, chunk_of},
    decode::{UnusableSymbol, check_symbol},
};

/// An eviction leaves this share of the limit free. Evicting costs as much as saving all states, so it must be rare; the
/// more room it makes, the sooner a silent symbol is lost.
const FREED_SHARE: usize = 8;

/// How a tick names its symbol.
#[derive(Clone, Copy)]
pub(super) enum Name<'a> {
    Text(&'a str),
    /// An index into [`tickhound_core::event::DecodedTicks::names`].
    Number(u32),
}

/// A tick is of another venue than its symbol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "second venue: {symbol} comes from {first}, and this tick from {second}. Set input.venue to \"keep\" to process them as two \
     symbols, or to \"strip\" to process them as one"
)]
pub(super) struct SecondVenue {
    symbol: String,
    first: Arc<str>,
    second: String,
}

/// Why a tick is not processed. The text is the reason of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RejectedTick {
    #[error(transparent)]
    Unusable(#[from] UnusableSymbol),
    #[error(transparent)]
    SecondVenue(#[from] Box<SecondVenue>),
}

/// The number of a symbol in this run, and its shard.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub(super) id: u32,
    pub(super) shard: usize,
}

/// Why symbols are evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionCause {
    /// They have been silent for the longest time, and there are too many.
    TooMany,
    /// The feed's clock went back, so that their states are of a time that has not come.
    ClockSetBack {
        /// The event time before, ns since the Unix epoch.
        from: u64,
        /// The event time now, ns since the Unix epoch.
        to: u64,
    },
}

/// A tick of the entry that is being routed.
#[derive(Clone, Copy)]
struct Touch {
    id: u32,
    time: u64,
}

/// Symbols that are forgotten.
#[derive(Debug)]
pub struct Evicted {
    /// Why.
    pub cause: EvictionCause,
    /// Their numbers.
    pub ids: Arc<[u32]>,
    /// Their names.
    pub names: Vec<Arc<str>>,
}

/// A symbol by the number that it has in ticks that come decoded.
struct NumberedSymbol {
    name: Arc<str>,
    /// The venue that it comes from; `None` if that is not known, or a part of the name.
    venue: Option<Arc<str>>,
    /// `None` before its first tick, and after its eviction.
    route: Option<Route>,
}

/// The place of an entry among all that are routed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The number of its read; reads are numbered from 1.
    pub(crate) read: u64,
    /// Its index in the read.
    pub(crate) entry: u32,
}

/// The venue of a symbol.
#[derive(Clone)]
struct KnownVenue {
    name: Arc<str>,
    /// The entry whose tick named it first; the default if it was known before.
    since: Place,
}

/// All known symbols.
pub(super) struct Symbols {
    routes: FxHashMap<Arc<str>, Route>,
    /// The groups, by the names under which they are interned. No tick can name one.
    groups: FxHashMap<Arc<str>, Route>,
    /// The name of each symbol, by id. The name of an evicted symbol stays until its number is reused.
    names: Vec<Arc<str>>,
    numbered: Vec<Option<NumberedSymbol>>,
    /// By id, whether the symbol's ticks are skipped: its saved state is as of a later entry, and not restored yet.
    pub(super) awaited: Vec<bool>,
    /// By id, when the symbol's last tick arrived, in milliseconds of its entry's id.
    arrived_ms: Vec<u64>,
    /// By id, the venue that the symbol comes from; `None` before a tick of it names one. That of an evicted symbol stays
    /// as long as its name.
    venues: Vec<Option<KnownVenue>>,
    /// Symbols whose venue is not saved yet.
    unsaved_venues: Vec<u32>,
    /// The venues of symbols that may still be unknown here: those that were saved, or that the live side of a warm-up has.
    known_venues: FxHashMap<Arc<str>, Arc<str>>,
    /// By id, the event time of the symbol's latest tick, ns.
    latest: Vec<u64>,
    /// By id, whether the symbol had a tick since its chunk was last visited.
    changed: Vec<bool>,
    /// By id, the symbol's chunk of the saved state.
    chunks: Vec<u16>,
    /// By id, the symbol's shard.
    shards: Vec<u32>,
    /// By id, whether the shard of a group knows it.
    pub(super) shown: Vec<bool>,
    /// The symbols in each chunk of the saved state.
    in_chunk: Vec<Vec<u32>>,
    /// The number of symbols in each chunk of the saved state.
    chunk_sizes: Vec<u32>,
    /// Numbers that new symbols get first.
    free: Vec<u32>,
    /// The symbols and the times of the ticks of the entry that is being routed.
    touched: Vec<Touch>,
    /// The symbols that are new with the entry that is being routed.
    new: Vec<u32>,
    /// The symbols whose venue is new with the entry that is being routed.
    new_venues: Vec<u32>,
}

impl Default for Symbols {
    fn default() -> Self {
        Self {
            routes: FxHashMap::default(),
            groups: FxHashMap::default(),
            names: Vec::new(),
            numbered: Vec::new(),
            awaited: Vec::new(),
            arrived_ms: Vec::new(),
            venues: Vec::new(),
            unsaved_venues: Vec::new(),
            known_venues: FxHashMap::default(),
            latest: Vec::new(),
            changed: Vec::new(),
            chunks: Vec::new(),
            shards: Vec::new(),
            shown: Vec::new(),
            in_chunk: vec![Vec::new(); usize::from(CHUNKS)],
            chunk_sizes: vec![0; usize::from(CHUNKS)],
            free: Vec::new(),
            touched: Vec::new(),
            new: Vec::new(),
            new_venues: Vec::new(),
        }
    }
}

impl Symbols {
    /// The number of symbols.
    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    /// The name of each symbol, by id.
    pub(super) fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// The number of symbols in each chunk of the saved state.
    pub(super) fn chunk_sizes(&self) -> &[u32] {
        &self.chunk_sizes
    }

    /// Forgets all symbols but the names of numbers.
    pub(super) fn forget_all(&mut self) {
        let mut numbered = std::mem::take(&mut self.numbered);
        numbered.iter_mut().flatten().for_each(|symbol| symbol.route = None);
        *self = Self { numbered, ..Self::default() };
    }

    /// Learns the names of numbers, and the venues of some of them.
    pub(super) fn learn(&mut self, names: &[(u32, Arc<str>)], venues: &[(u32, Arc<str>)]) {
        for (number, name) in names {
            let at = *number as usize;
            if at >= self.numbered.len() {
                self.numbered.resize_with(at + 1, || None);
            }
            self.numbered[at] = Some(NumberedSymbol { name: name.clone(), venue: None, route: None });
        }
        for (number, venue) in venues {
            if let Some(symbol) = self.numbered.get_mut(*number as usize).and_then(Option::as_mut) {
                symbol.venue = Some(venue.clone());
            }
        }
    }

    /// Finds a symbol; `None` if it is new, and can be added.
    ///
    /// # Errors
    /// When it is new, and not usable.
    #[inline]
    pub(super) fn find(&self, name: Name<'_>) -> Result<Option<Route>, UnusableSymbol> {
        let known = match name {
            Name::Text(name) => self.routes.get(name).copied(),
            Name::Number(number) => {
                let symbol = self.numbered(number);
                symbol.route.or_else(|| self.routes.get(&symbol.name).copied())
            }
        };
        match known {
            Some(route) => Ok(Some(route)),
            None => check_symbol(self.text(name)).map(|()| None),
        }
    }

    /// Returns the venue that a tick gives its symbol; `None` if the tick names none, or the symbol has it already.
    ///
    /// # Errors
    /// When the symbol comes from another one.
    #[inline]
    pub(super) fn new_venue(
        &self,
        symbol: Name<'_>,
        known: Option<Route>,
        venue: &str,
    ) -> Result<Option<Arc<str>>, Box<SecondVenue>> {
        let venue = match symbol {
            Name::Number(number) => self.numbered(number).venue.as_deref().unwrap_or_default(),
            Name::Text(_) => venue,
        };
        if venue.is_empty() {
            return Ok(None);
        }
        let first = match known {
            Some(Route { id, .. }) => self.venues[id as usize].as_ref().map(|known| &known.name),
            None => self.known_venues.get(self.text(symbol)),
        };
        match first {
            None => Ok(Some(venue.into())),
            Some(first) if **first == *venue => Ok(None),
            Some(first) => Err(Box::new(SecondVenue {
                symbol: self.text(symbol).to_owned(),
                first: first.clone(),
                second: venue.to_owned(),
            })),
        }
    }

    /// Notes the venue of a symbol with the entry that is being routed, which is at `since`.
    pub(super) fn set_venue(&mut self, id: u32, name: Arc<str>, since: Place) {
        self.venues[id as usize] = Some(KnownVenue { name, since });
        self.new_venues.push(id);
    }

    /// Gives a symbol the venue that `warm`, the symbols of a warm-up, have for their symbol `its`, if it has none here. Entries
    /// before `since` have raised their alerts without it.
    pub(super) fn take_over_venue(&mut self, id: u32, warm: &Self, its: u32, since: Place) {
        let venue = &mut self.venues[id as usize];
        if let (None, Some(KnownVenue { name, .. })) = (&venue, &warm.venues[its as usize]) {
            *venue = Some(KnownVenue { name: name.clone(), since });
            self.unsaved_venues.push(id);
        }
    }

    /// The venue of a symbol as of an entry; `None` if no tick had named it by then, or there is no such symbol. Later
    /// entries are routed before the alerts of this one are written.
    pub(super) fn venue_at(&self, id: u32, place: Place) -> Option<&str> {
        let known = self.venues.get(id as usize)?.as_ref();
        known.filter(|known| known.since <= place).map(|known| &*known.name)
    }

    /// Learns the venues of symbols before their first tick here.
    pub(super) fn learn_venues(&mut self, venues: impl IntoIterator<Item = (Arc<str>, Arc<str>)>) {
        self.known_venues.extend(venues);
    }

    /// Returns the symbols that have a venue, with it.
    pub(super) fn venues(&self) -> impl Iterator<Item = (Arc<str>, Arc<str>)> + '_ {
        let with_venue = |(name, route): (&Arc<str>, &Route)| {
            let known = self.venues[route.id as usize].as_ref()?;
            Some((name.clone(), known.name.clone()))
        };
        self.routes.iter().filter_map(with_venue)
    }

    /// Takes the venues that are not saved yet, of symbols in these chunks.
    pub(super) fn take_unsaved_venues(&mut self, chunks: &Range<u16>) -> Vec<(Arc<str>, Arc<str>)> {
        let Self { unsaved_venues, names, venues, chunks: chunk_of, .. } = self;
        let due = unsaved_venues.extract_if(.., |id| chunks.contains(&chunk_of[*id as usize]));
        let with_venue = |id: u32| Some((names[id as usize].clone(), venues[id as usize].as_ref()?.name.clone()));
        due.filter_map(with_venue).collect()
    }

    /// Has all venues saved again.
    pub(super) fn save_venues_anew(&mut self) {
        let ids = self.routes.values().map(|route| route.id);
        self.unsaved_venues = ids.filter(|id| self.venues[*id as usize].is_some()).collect();
    }

    /// Adds a symbol that is not known yet, with the entry that is being routed.
    pub(super) fn add(&mut self, name: Name<'_>, shards: usize) -> Route {
        let route = self.add_name(self.text(name).into(), shards);
        if let Name::Number(number) = name
            && let Some(symbol) = &mut self.numbered[number as usize]
        {
            symbol.route = Some(route);
        }
        self.new.push(route.id);
        route
    }

    /// Returns the route of a group, which is interned under this name, and whether it is new.
    pub(super) fn meet_group(&mut self, name: &str, shards: usize) -> (Route, bool) {
        if let Some(route) = self.groups.get(name) {
            return (*route, false);
        }
        let route = self.intern(name.into(), shards);
        self.groups.insert(self.names[route.id as usize].clone(), route);
        (route, true)
    }

    /// Whether a number is that of a group.
    pub(super) fn is_group(&self, id: u32) -> bool {
        self.names[id as usize].starts_with(GROUP_MARK)
    }

    /// Notes that a symbol or group has changed, and had a row at an entry that arrived then.
    pub(super) fn note_row(&mut self, id: u32, arrived_ms: u64) {
        self.changed[id as usize] = true;
        let last = &mut self.arrived_ms[id as usize];
        *last = arrived_ms.max(*last);
    }

    /// Notes that a symbol has changed without a tick.
    pub(super) fn note_changed(&mut self, id: u32) {
        self.changed[id as usize] = true;
    }

    /// Notes that all symbols and groups have changed without a tick. A group that had no row yet has nothing to save, and its
    /// shard does not know it.
    pub(super) fn note_all_changed(&mut self) {
        let Self { routes, groups, shown, changed, .. } = self;
        let groups = groups.values().filter(|route| shown[route.id as usize]);
        routes.values().chain(groups).for_each(|route| changed[route.id as usize] = true);
    }

    /// Returns the route of a symbol whose last tick arrived at `arrived_ms` elsewhere, and whether it is new here.
    pub(super) fn meet(&mut self, name: &str, arrived_ms: u64, shards: usize) -> (Route, bool) {
        if let Some(route) = self.routes.get(name) {
            return (*route, false);
        }
        let route = self.add_name(name.into(), shards);
        self.arrived_ms[route.id as usize] = arrived_ms;
        (route, true)
    }

    /// Notes that the entry that is being routed has a tick of this symbol, at this event time.
    #[inline]
    pub(super) fn touch(&mut self, id: u32, time: u64) {
        self.touched.push(Touch { id, time });
    }

    /// The event time of a symbol's latest tick, ns; 0 if it had none.
    pub(super) fn latest(&self, id: u32) -> u64 {
        self.latest[id as usize]
    }

    /// Notes the event time of a symbol's latest tick.
    pub(super) fn note_latest(&mut self, id: u32, time: u64) {
        let latest = &mut self.latest[id as usize];
        *latest = time.max(*latest);
    }

    /// Ends an entry whose ticks are processed.
    #[inline]
    pub(super) fn end_entry(&mut self, arrived_ms: u64) {
        for Touch { id, time } in &self.touched {
            // A recovered entry may have arrived before entries that are processed already.
            let (last, latest) = (&mut self.arrived_ms[*id as usize], &mut self.latest[*id as usize]);
            (*last, *latest) = (arrived_ms.max(*last), (*time).max(*latest));
            self.changed[*id as usize] = true;
        }
        self.touched.clear();
        self.new.clear();
        if !self.new_venues.is_empty() {
            self.unsaved_venues.append(&mut self.new_venues);
        }
    }

    /// Ends an entry whose ticks are taken back, and returns the symbols that were new with it and are forgotten again:
    /// they have no state, so that a restart would not find them.
    pub(super) fn undo_entry(&mut self) -> Vec<u32> {
        self.touched.clear();
        self.new_venues.drain(..).for_each(|id| self.venues[id as usize] = None);
        let new = std::mem::take(&mut self.new);
        new.iter().rev().for_each(|id| self.remove(*id));
        self.free.extend(&new);
        new
    }

    /// Evicts the longest silent symbols if there are more than `max`, so that a share of `max` is free. Of those that were
    /// silent for equally long, the first by name goes first.
    pub(super) fn evict(&mut self, max: usize) -> Option<Evicted> {
        if self.len() <= max {
            return None;
        }
        let count = self.len() - left_by_eviction(max);
        let mut silent: Vec<(u64, &Arc<str>, u32)> =
            self.routes.iter().map(|(name, route)| (self.arrived_ms[route.id as usize], name, route.id)).collect();
        silent.select_nth_unstable(count - 1);
        let evicted = silent[..count].iter().map(|(_, name, id)| (*id, Arc::clone(name))).unzip();
        Some(self.evict_these(evicted, EvictionCause::TooMany))
    }

    /// Evicts all symbols.
    pub(super) fn evict_all(&mut self, cause: EvictionCause) -> Evicted {
        // The numbers are given to new symbols in this order.
        let all = self.known().into_iter().map(|(route, name)| (route.id, name));
        self.evict_these(all.unzip(), cause)
    }

    fn evict_these(&mut self, (ids, names): (Vec<u32>, Vec<Arc<str>>), cause: EvictionCause) -> Evicted {
        ids.iter().for_each(|id| self.remove(*id));
        names.iter().for_each(|name| _ = self.known_venues.remove(name));
        let evicted: FxHashSet<u32> = ids.iter().copied().collect();
        self.unsaved_venues.retain(|id| !evicted.contains(id));
        for symbol in self.numbered.iter_mut().flatten() {
            symbol.route.take_if(|route| evicted.contains(&route.id));
        }
        Evicted { cause, ids: ids.into(), names }
    }

    /// Whether there are fewer symbols than an eviction leaves.
    pub(super) fn has_evicted_none(&self, max: usize) -> bool {
        self.len() < left_by_eviction(max)
    }

    /// Gives these numbers to the next new symbols.
    pub(super) fn reuse(&mut self, ids: &[u32]) {
        self.free.extend(ids);
    }

    /// Returns the symbols in a chunk, each with its shard.
    pub(super) fn in_chunk(&self, chunk: u16) -> impl Iterator<Item = (u32, usize)> {
        self.in_chunk[usize::from(chunk)].iter().map(|id| (*id, self.shards[*id as usize] as usize))
    }

    /// Notes a visit to a chunk.
    pub(super) fn visited(&mut self, chunk: u16) {
        self.in_chunk[usize::from(chunk)].iter().for_each(|id| self.changed[*id as usize] = false);
    }

    /// Whether the symbol had a tick since its chunk was last visited.
    pub(super) fn has_changed(&self, id: u32) -> bool {
        self.changed[id as usize]
    }

    /// Returns the known symbols and groups in the order of their numbers, with their routes.
    pub(super) fn known(&self) -> Vec<(Route, Arc<str>)> {
        let mut known: Vec<(Route, Arc<str>)> =
            self.routes.iter().chain(&self.groups).map(|(name, route)| (*route, name.clone())).collect();
        known.sort_unstable_by_key(|(route, _)| route.id);
        known
    }

    /// The route of a symbol or group that is known.
    pub(super) fn route_of(&self, name: &str) -> Option<Route> {
        self.routes.get(name).or_else(|| self.groups.get(name)).copied()
    }

    /// The number of its shard.
    pub(super) fn shard_of(&self, id: u32) -> usize {
        self.shards[id as usize] as usize
    }

    /// When the symbol's last tick arrived, in milliseconds of its entry's id.
    pub(super) fn arrived_ms(&self, id: u32) -> u64 {
        self.arrived_ms[id as usize]
    }

    /// Notes when the symbol's last tick arrived.
    pub(super) fn note_arrival(&mut self, id: u32, arrived_ms: u64) {
        self.arrived_ms[id as usize] = arrived_ms;
    }

    fn add_name(&mut self, name: Arc<str>, shards: usize) -> Route {
        let route = self.intern(name.clone(), shards);
        self.routes.insert(name, route);
        route
    }

    fn intern(&mut self, name: Arc<str>, shards: usize) -> Route {
        let shard = (FxBuildHasher.hash_one(&*name) >> 32) as usize % shards;
        let chunk = chunk_of(&name);
        self.chunk_sizes[usize::from(chunk)] += 1;
        let id = match self.free.pop() {
            Some(id) => {
                self.names[id as usize] = name.clone();
                (self.awaited[id as usize], self.arrived_ms[id as usize], self.latest[id as usize]) = (false, 0, 0);
                (self.changed[id as usize], self.chunks[id as usize]) = (false, chunk);
                (self.shards[id as usize], self.shown[id as usize]) = (shard as u32, false);
                id
            }
            None => {
                let id = u32::try_from(self.names.len()).expect("fewer symbols than ids");
                self.names.push(name.clone());
                self.awaited.push(false);
                self.arrived_ms.push(0);
                self.venues.push(None);
                self.latest.push(0);
                self.changed.push(false);
                self.chunks.push(chunk);
                self.shards.push(shard as u32);
                self.shown.push(false);
                id
            }
        };
        self.in_chunk[usize::from(chunk)].push(id);
        let venue = self.known_venues.get(&name);
        self.venues[id as usize] = venue.map(|name| KnownVenue { name: name.clone(), since: Place::default() });
        Route { id, shard }
    }

    fn remove(&mut self, id: u32) {
        let chunk = usize::from(self.chunks[id as usize]);
        self.chunk_sizes[chunk] -= 1;
        // Those of an entry that is taken back are the last ones.
        let at = self.in_chunk[chunk].iter().rposition(|other| *other == id);
        self.in_chunk[chunk].remove(at.expect("a known symbol is in its chunk"));
        let name = &self.names[id as usize];
        self.routes.remove(name).or_else(|| self.groups.remove(name));
    }

    fn numbered(&self, number: u32) -> &NumberedSymbol {
        self.numbered[number as usize].as_ref().expect("a name comes no later than its number")
    }

    fn text<'n>(&'n self, name: Name<'n>) -> &'n str {
        match name {
            Name::Text(name) => name,
            Name::Number(number) => &self.numbered(number).name,
        }
    }
}

/// The number of symbols that stay if there are more than `max`.
fn left_by_eviction(max: usize) -> usize {
    max - max / FREED_SHARE
}
