//! Rows of views: of groups, bars and snapshots, and the columns that are not of the input.
//!
//! What holds: the rows that an owner gets, and their order, depend on the stream and the plan alone, not on shards or batches.
//! At one place of the stream the rows of bars come first, then those of snapshots, then a clock row, then the tick. A row is as
//! of before itself: what is computed from it counts from the next one on; only its own contexts include it.

use std::{ops::Range, sync::Arc};

use rustc_hash::{FxHashMap, FxHashSet};
use tracing::warn;

use super::{
    Job,
    contexts::{ContextLinks, ContextValues},
    plan::{IngestPlan, ViewPlan},
    symbols::Symbols,
};
use crate::plugin::{GROUP_MARK, LAST_OF_SNAPSHOT, Scope, View};
use tickhound_core::{
    checkpoint::{SharedBase, SharedBases},
    decode::check_symbol,
    event::{Batch, TickRow, column, flag},
    market::{
        groups::MARKET,
        order::NameOrder,
        reference::ReferenceRow,
        series::{EndedBar, Series},
        snapshots::{SnapshotStep, step_passed},
        tick::MarketTick,
    },
    normalize::Normalizer,
};

/// What ingest knows beside ticks of symbols.
pub(super) struct Wide {
    pub(super) plan: Arc<IngestPlan>,
    series: Series,
    order: NameOrder,
    contexts: ContextValues,
    /// By the numbers of the symbols.
    facts: Vec<SymbolPlan>,
    /// Which shards have owners, by view. They get its clock rows.
    owning: Vec<Vec<bool>>,
    shards: usize,
    /// The values of a row; kept for its memory.
    row: Vec<f64>,
    /// The computed columns of a row; kept for its memory.
    computed: Vec<f64>,
    /// The rows of bars that end at one place; kept for its memory.
    ended: EndedRows,
    /// Whether the values of contexts have been restored.
    has_restored_contexts: bool,
}

/// The rows of bars that end at one place.
#[derive(Default)]
struct EndedRows {
    bars: Vec<EndedRow>,
    /// The columns of the first row, then those of the next one.
    columns: Vec<f64>,
}

#[derive(Clone, Copy)]
struct EndedRow {
    symbol: u32,
    /// The position of its length in the plan's series.
    length: usize,
    time: u64,
    price: f64,
}

/// What follows from the name of a symbol.
#[derive(Clone, Debug, Default)]
struct SymbolPlan {
    is_resolved: bool,
    /// Whether the symbol is not normalized yet: its state is as of a later entry.
    is_awaited: bool,
    reference: ReferenceRow,
    /// The groups that it is a member of, by view.
    owners: Vec<Vec<u32>>,
    links: ContextLinks,
    /// The shards that know it as a member of a group.
    shown_to: Vec<bool>,
}

/// The place of rows in a read.
#[derive(Clone, Copy)]
pub(super) struct RowPlace {
    pub(super) read: u64,
    /// The index of the entry in the read.
    pub(super) entry: u32,
    /// When the entry arrived, in milliseconds of its id.
    pub(super) arrived_ms: u64,
    /// The likely number of rows of a job.
    pub(super) rows: usize,
}

/// Where rows go.
pub(super) struct Outlet<'a> {
    pub(super) place: RowPlace,
    pub(super) symbols: &'a mut Symbols,
    pub(super) jobs: &'a mut [Option<Job>],
}

/// A row that is not a tick.
struct MadeRow<'a> {
    symbol: u32,
    time: u64,
    price: f64,
    columns: &'a [f64],
}

impl Wide {
    pub(super) fn new(plan: Arc<IngestPlan>, shards: usize) -> Self {
        Self {
            series: Series::new(&plan.series),
            order: NameOrder::default(),
            contexts: ContextValues::new(&plan.market, None),
            facts: Vec::new(),
            owning: vec![vec![false; shards]; plan.views.len()],
            shards,
            row: Vec::new(),
            computed: Vec::new(),
            ended: EndedRows::default(),
            has_restored_contexts: false,
            plan,
        }
    }

    /// Continues with another plan, as of the present place of the stream.
    pub(super) fn with(self, plan: Arc<IngestPlan>) -> Self {
        let contexts = ContextValues::new(&plan.market, Some((&self.contexts, &self.plan.market)));
        let facts = self.facts.into_iter().map(|facts| SymbolPlan { is_resolved: false, ..facts }).collect();
        let series = self.series.with(&plan.series);
        Self { series, contexts, facts, order: self.order, ..Self::new(plan, self.shards) }
    }

    /// The number of columns of a row.
    pub(super) fn width(&self) -> usize {
        self.plan.layout.width()
    }

    /// Finds what follows from the names of all known symbols, before their next rows.
    pub(super) fn resolve_all(&mut self, symbols: &mut Symbols) {
        for (route, name) in symbols.known() {
            if name.starts_with(GROUP_MARK) {
                self.note_group(&name, route.shard);
            } else {
                self.resolve(route.id, symbols);
            }
        }
    }

    /// Finds what follows from the name of a symbol, before its first row.
    pub(super) fn resolve(&mut self, id: u32, symbols: &mut Symbols) {
        if self.facts(id).is_resolved {
            return;
        }
        let name = symbols.names()[id as usize].clone();
        self.order.note_change();
        let plan = self.plan.clone();
        let owners = plan.views.iter().zip(&mut self.owning).map(|(view, owning)| {
            let mut owners = Vec::new();
            for group in groups_of(view, &plan, &name) {
                let (route, _) = symbols.meet_group(&group, self.shards);
                owning[route.shard] = true;
                if !owners.contains(&route.id) {
                    owners.push(route.id);
                }
            }
            owners
        });
        let owners = owners.collect();
        let links = self.contexts.link(&plan.market, &name);
        let reference = plan.market.reference().row(&name);
        let facts = self.facts(id);
        *facts = SymbolPlan { is_resolved: true, reference, owners, links, ..std::mem::take(facts) };
    }

    /// Notes that a symbol is not normalized before its state is restored.
    pub(super) fn await_state(&mut self, id: u32) {
        self.facts(id).is_awaited = true;
    }

    /// Whether a symbol is not normalized yet.
    pub(super) fn is_awaited(&self, id: u32) -> bool {
        self.facts.get(id as usize).is_some_and(|facts| facts.is_awaited)
    }

    /// Notes that a symbol is normalized from here on, with its series as they were saved; without any if it had no tick.
    pub(super) fn begin(&mut self, id: u32, series: &[u8]) {
        self.facts(id).is_awaited = false;
        if !series.is_empty()
            && let Err(error) = self.series.restore(id, series)
        {
            let error = format!("{error:#}");
            warn!(event = "bars_not_restored", %error, "saved bars or computed columns of a symbol can't be read; they begin anew");
        }
    }

    /// Forgets symbols or groups.
    pub(super) fn forget(&mut self, ids: &[u32]) {
        for id in ids {
            self.series.forget(*id);
            if let Some(facts) = self.facts.get_mut(*id as usize) {
                *facts = SymbolPlan::default();
            }
        }
        // Groups are only forgotten together with all symbols, so no other symbol has one of them.
        self.order.note_change();
    }

    /// Forgets the values of contexts, which are of a time that has not come.
    pub(super) fn forget_contexts(&mut self) {
        self.contexts.forget();
    }

    /// The saved form of a symbol's series; empty if there are none.
    pub(super) fn save(&self, id: u32) -> Vec<u8> {
        self.series.save(id).unwrap_or_default()
    }

    /// Ends bars and takes snapshots when event time goes from `before` to a whole `second`, then adds clock rows.
    pub(super) fn reach(&mut self, before: u64, second: u64, normalizer: &mut Normalizer, mut out: Outlet<'_>) {
        self.end_bars(second, normalizer, &mut out);
        let plan = self.plan.clone();
        for seconds in &plan.steps {
            self.take_snapshots(*seconds, before..second, normalizer, &mut out);
        }
        for (at, view) in plan.views.iter().enumerate().filter(|(_, view)| view.wants_clock) {
            for shard in 0..self.shards {
                if view.view.scope == Scope::Symbol || self.owning[at][shard] {
                    let width = self.width();
                    let entry = out.place.entry;
                    push_clock(&mut out.open(shard, &plan.views, width).views[at], entry, second);
                }
            }
        }
    }

    /// Fills the columns of a tick that are not of the input, as of before it.
    pub(super) fn fill(&mut self, symbol: u32, price: f64, session: i32, row: &mut [f64]) {
        let Self { plan, contexts, facts, series, computed, .. } = self;
        let facts = &facts[symbol as usize];
        contexts.note(&facts.links, &plan.market, price, &row[..plan.layout.input()]);
        row[plan.layout.bars()..plan.layout.computed()].fill(f64::NAN);
        computed.clear();
        series.add_computed(symbol, computed);
        fill_extras(row, plan, facts, (contexts, session), computed);
    }

    /// Adds a tick to the views that have ticks, and then to bars, last values and computed columns.
    pub(super) fn tick(&mut self, row: &TickRow<'_, u64>, now: u64, normalizer: &mut Normalizer, mut out: Outlet<'_>) {
        let plan = self.plan.clone();
        let TickRow { symbol, time, price, columns, .. } = *row;
        let made = MadeRow { symbol, time, price, columns };
        for (at, view) in plan.views.iter().enumerate() {
            if let Some(feed) = view.ticks {
                self.push((at, feed), &made, &mut out, |_, _| ());
            }
        }
        if !self.series.is_empty() {
            let span = normalizer.span(normalizer.calendar_of(symbol), time);
            let columns = &columns[..plan.layout.input()];
            self.series.push(&MarketTick { symbol, now, span: &span, price, columns });
        }
    }

    /// What others depend on, of the owners in these chunks of the saved state; `None` if no owner depends on anything. Of a group
    /// whose members were all evicted it is nothing, and this is saved, too.
    pub(super) fn shared_bases(
        &self,
        chunks: &Range<u16>,
        symbols: &Symbols,
        normalizer: &Normalizer,
    ) -> Option<SharedBases> {
        let visited = chunks.clone().flat_map(|chunk| symbols.in_chunk(chunk)).map(|(id, _)| id);
        let groups: FxHashSet<u32> = visited.filter(|id| symbols.is_group(*id)).collect();
        let is_member = |facts: &SymbolPlan| facts.owners.iter().flatten().any(|owner| groups.contains(owner));
        let is_needed = |facts: &SymbolPlan| facts.is_resolved && (!facts.links.feeds.is_empty() || is_member(facts));
        let needed = (0u32..).zip(&self.facts).filter(|(_, facts)| is_needed(facts));
        let bases = needed.map(|(id, _)| SharedBase {
            name: symbols.names()[id as usize].to_string(),
            normalizer: normalizer.state(id).cloned(),
            series: self.save(id),
        });
        let Self { plan, contexts, .. } = self;
        let (bases, contexts) = (bases.collect(), contexts.save(&plan.market));
        let bases = SharedBases { covers: plan.covers.clone(), symbols: bases, contexts };
        let is_needed = !groups.is_empty() || !plan.market.contexts().is_empty() || !bases.is_empty();
        is_needed.then_some(bases)
    }

    /// Restores what the owners of these names depend on, as of their boundary: from `bases`, or as nothing if no tick had been
    /// processed then. What began at an earlier boundary continues.
    ///
    /// A symbol without a base had no tick then, if all that depends on it was the same for those who saved the bases. Otherwise
    /// nobody knows, and its ticks are left out up to its own boundary.
    pub(super) fn restore_bases(
        &mut self,
        names: &[&str],
        bases: Option<&SharedBases>,
        symbols: &mut Symbols,
        normalizer: &mut Normalizer,
    ) {
        let first = !std::mem::replace(&mut self.has_restored_contexts, true);
        if first {
            self.resolve_all(symbols);
            self.contexts.restore(bases, &self.plan.market);
        }
        let plan = self.plan.clone();
        let covers = |fingerprint| bases.is_none_or(|bases| bases.covers.contains(&fingerprint));
        let named = names.iter().filter_map(|name| Some((symbols.route_of(name)?.id, name)));
        // The symbols among them have their own states.
        let (groups, own): (Vec<_>, Vec<_>) = named.partition(|(id, _)| symbols.is_group(*id));
        let groups: FxHashMap<u32, bool> =
            groups.into_iter().map(|(id, name)| (id, covers(plan.group_fingerprint(name)))).collect();
        let own: FxHashSet<u32> = own.into_iter().map(|(id, _)| id).collect();
        let saved = bases.iter().flat_map(|bases| &bases.symbols).map(|base| (base.name.as_str(), base));
        let saved: FxHashMap<&str, &SharedBase> = saved.collect();
        for id in 0..self.facts.len() as u32 {
            let facts = &self.facts[id as usize];
            if !facts.is_awaited || own.contains(&id) {
                continue;
            }
            let of_groups = facts.owners.iter().flatten().filter_map(|owner| groups.get(owner).copied());
            let fed = self.contexts.fed_by(&facts.links).filter(|_| first);
            let of_contexts = fed.map(|context| covers(plan.market.context_fingerprint(context)));
            let Some(is_covered) = of_groups.chain(of_contexts).reduce(|one, other| one || other) else { continue };
            let name = symbols.names()[id as usize].clone();
            let base = saved.get(&*name);
            if base.is_none() && !is_covered {
                continue;
            }
            normalizer.introduce(id, &name);
            if let Some(state) = base.and_then(|base| base.normalizer.clone()) {
                symbols.note_latest(id, state.time());
                normalizer.restore(id, state);
            }
            self.begin(id, base.map_or(&[][..], |base| &base.series));
        }
    }

    /// The resolved members of these groups, which are of one shard, that it does not know yet.
    pub(super) fn unknown_members(
        &mut self,
        groups: &FxHashSet<u32>,
        shard: usize,
        symbols: &Symbols,
    ) -> Vec<(u32, Arc<str>)> {
        if groups.is_empty() {
            return Vec::new();
        }
        let mut unknown = Vec::new();
        for (id, facts) in (0u32..).zip(&mut self.facts) {
            if facts.owners.iter().flatten().any(|owner| groups.contains(owner))
                && show_to(&mut facts.shown_to, shard, self.shards)
            {
                unknown.push((id, symbols.names()[id as usize].clone()));
            }
        }
        unknown
    }

    /// Takes over what only a warm-up has: bars and computed columns that are new here, and contexts.
    pub(super) fn take_over(&mut self, warm: &mut Self, before: Option<&IngestPlan>, ids: &[(u32, u32)]) {
        let plan = self.plan.clone();
        let had_bars = |seconds: &u32| before.is_some_and(|before| before.series.bars.contains(seconds));
        let mut wanted = plan.series.clone();
        wanted.bars.retain(|seconds| !had_bars(seconds));
        wanted.computed.retain(|one| before.is_none_or(|before| !before.series.computed.contains(one)));
        wanted.last_values &= before.is_none_or(|before| !before.series.last_values);
        let series = std::mem::take(&mut warm.series).with(&wanted);
        for (ours, its) in ids {
            if let Some(saved) = series.save(*its) {
                self.begin(*ours, &saved);
            }
        }
        let is_new = |context: usize| {
            let rule = &plan.market.contexts()[context];
            before.is_none_or(|before| !before.market.contexts().contains(rule))
        };
        self.contexts.take_over(&warm.contexts, &plan.market, is_new);
    }

    fn end_bars(&mut self, second: u64, normalizer: &mut Normalizer, out: &mut Outlet<'_>) {
        if self.series.next_end() > second {
            return;
        }
        let mut series = std::mem::take(&mut self.series);
        let mut order = std::mem::take(&mut self.order);
        let (mut ended, mut row) = (std::mem::take(&mut self.ended), std::mem::take(&mut self.row));
        ended.bars.clear();
        ended.columns.clear();
        series.end_bars(second, out.symbols.names(), &mut order, |bar| {
            self.make_bar(&bar, normalizer, &mut row);
            ended.columns.extend_from_slice(&row);
            let EndedBar { symbol, length, bar, .. } = bar;
            ended.bars.push(EndedRow { symbol, length, time: bar.end, price: bar.close });
        });
        (self.series, self.order, self.row) = (series, order, row);
        let plan = self.plan.clone();
        for (bar, columns) in ended.bars.iter().zip(ended.columns.chunks_exact(plan.layout.width())) {
            let EndedRow { symbol, length, time, price } = *bar;
            out.symbols.note_changed(symbol);
            let made = MadeRow { symbol, time, price, columns };
            for (at, view) in plan.views.iter().enumerate() {
                for (feed, _) in view.bars.iter().filter(|(_, of)| *of == length) {
                    self.push((at, *feed), &made, out, |_, _| ());
                }
            }
        }
        self.ended = ended;
    }

    /// Makes the columns of a bar's row.
    fn make_bar(&self, ended: &EndedBar<'_>, normalizer: &mut Normalizer, row: &mut Vec<f64>) {
        let Self { plan, facts, contexts, .. } = self;
        let EndedBar { symbol, bar, columns, computed, .. } = ended;
        row.clear();
        row.extend_from_slice(columns);
        row.resize(plan.layout.width(), f64::NAN);
        row[column::QUANTITY] = bar.quantity;
        row[column::FLAGS] = f64::from(bar.flags);
        row[plan.layout.session()] = bar.since_open;
        row[plan.layout.session() + 1] = bar.to_close;
        row[plan.layout.bars()..plan.layout.computed()].copy_from_slice(&bar.columns());
        let span = normalizer.span(normalizer.calendar_of(*symbol), bar.start);
        fill_extras(row, plan, &facts[*symbol as usize], (contexts, span.number), computed);
    }

    /// Adds a row for each symbol that had a tick in its session, if event time passes a step.
    fn take_snapshots(&mut self, seconds: u32, time: Range<u64>, normalizer: &mut Normalizer, out: &mut Outlet<'_>) {
        let steps: Vec<Option<SnapshotStep>> = (0..normalizer.calendars() as u16)
            .map(|calendar| step_passed(&normalizer.span(calendar, time.start), time.start, time.end, seconds))
            .collect();
        if steps.iter().all(Option::is_none) {
            return;
        }
        let Some(last) = self.series.last_values() else { return };
        let step_of = |id: u32| steps.get(usize::from(normalizer.calendar_of(id))).and_then(Option::as_ref);
        let ids = (0..self.facts.len() as u32).filter(|id| self.facts[*id as usize].is_resolved);
        let mut due: Vec<u32> = ids.filter(|id| step_of(*id).is_some_and(|s| last.at_step(*id, s).is_some())).collect();
        let mut order = std::mem::take(&mut self.order);
        order.sort(out.symbols.names(), &mut due, |id| (*id, 0));
        self.order = order;
        let (mut row, plan) = (std::mem::take(&mut self.row), self.plan.clone());
        let mut lasts: FxHashMap<(usize, u32), (usize, usize)> = FxHashMap::default();
        for id in due {
            let Some(step) = step_of(id) else { continue };
            let Some(price) = self.make_snapshot(id, step, &mut row) else { continue };
            let made = MadeRow { symbol: id, time: step.time, price, columns: &row };
            for (at, view) in plan.views.iter().enumerate() {
                for (feed, _) in view.snapshots.iter().filter(|(_, of)| *of == seconds) {
                    self.push((at, *feed), &made, out, |owner, row| _ = lasts.insert((at, owner), row));
                }
            }
        }
        self.row = row;
        for ((view, _), (shard, row)) in lasts {
            if let Some(feed) = out.jobs[shard].as_mut().and_then(|job| job.views[view].batch.feed.get_mut(row)) {
                *feed |= LAST_OF_SNAPSHOT;
            }
        }
    }

    /// Makes the columns of a snapshot's row, and returns its price.
    fn make_snapshot(&mut self, id: u32, step: &SnapshotStep, row: &mut Vec<f64>) -> Option<f64> {
        let Self { plan, facts, contexts, series, computed, .. } = self;
        let last = series.last_values()?.at_step(id, step)?;
        row.clear();
        row.extend_from_slice(last.columns);
        row.resize(plan.layout.width(), f64::NAN);
        row[column::QUANTITY] = f64::NAN;
        row[column::FLAGS] = f64::from(if last.is_first { flag::SESSION_START } else { 0 });
        row[plan.layout.session()] = step.since_open;
        row[plan.layout.session() + 1] = step.to_close;
        computed.clear();
        series.add_computed(id, computed);
        fill_extras(row, plan, &facts[id as usize], (contexts, step.session), computed);
        Some(last.price)
    }

    /// Adds a row to a feed of a view, for each owner that it concerns. `note` gets each owner, its shard and the index of the row.
    fn push(
        &mut self,
        (at, feed): (usize, u8),
        row: &MadeRow<'_>,
        out: &mut Outlet<'_>,
        mut note: impl FnMut(u32, (usize, usize)),
    ) {
        let plan = self.plan.clone();
        let view = &plan.views[at];
        if view.view.scope == Scope::Symbol {
            if !out.symbols.awaited[row.symbol as usize] {
                note(row.symbol, out.push((at, &plan), feed, row, None));
            }
            return;
        }
        let facts = &mut self.facts[row.symbol as usize];
        for owner in &facts.owners[at] {
            if out.symbols.awaited[*owner as usize] {
                continue;
            }
            let shard = out.symbols.shard_of(*owner);
            let is_new = show_to(&mut facts.shown_to, shard, self.shards);
            out.introduce(*owner, is_new.then_some(row.symbol), &plan);
            note(*owner, out.push((at, &plan), feed, row, Some(*owner)));
        }
    }

    /// Notes that a group is restored, or known for another reason, in a shard.
    pub(super) fn note_group(&mut self, name: &str, shard: usize) {
        for (view, owning) in self.plan.views.iter().zip(&mut self.owning) {
            owning[shard] |= has_group(&view.view, name);
        }
    }

    fn facts(&mut self, id: u32) -> &mut SymbolPlan {
        let id = id as usize;
        if self.facts.len() <= id {
            self.facts.resize_with(id + 1, SymbolPlan::default);
        }
        &mut self.facts[id]
    }
}

impl Outlet<'_> {
    fn open(&mut self, shard: usize, views: &[ViewPlan], width: usize) -> &mut Job {
        super::open(&mut self.jobs[shard], self.place.read, width, self.place.rows, views)
    }

    /// Introduces a group to its shard, and a member, unless the shard knows them.
    fn introduce(&mut self, owner: u32, member: Option<u32>, plan: &IngestPlan) {
        let shard = self.symbols.shard_of(owner);
        let is_new = !std::mem::replace(&mut self.symbols.shown[owner as usize], true);
        let names = self.symbols.names();
        let owner = is_new.then(|| (owner, names[owner as usize].clone()));
        let member = member.map(|member| (member, names[member as usize].clone()));
        let job = self.open(shard, &plan.views, plan.layout.width());
        job.symbols.extend(owner);
        job.members.extend(member);
    }

    /// Adds a row to a view of the owner's shard, and returns the shard and the index of the row.
    fn push(
        &mut self,
        (at, plan): (usize, &IngestPlan),
        feed: u8,
        row: &MadeRow<'_>,
        group: Option<u32>,
    ) -> (usize, usize) {
        let owner = group.unwrap_or(row.symbol);
        let shard = self.symbols.shard_of(owner);
        self.symbols.note_row(owner, if group.is_some() { self.place.arrived_ms } else { 0 });
        let entry = self.place.entry;
        let ViewRows { view, batch } = &mut self.open(shard, &plan.views, plan.layout.width()).views[at];
        let MadeRow { symbol, time, price, columns } = *row;
        batch.push(TickRow { entry, symbol, time, price, columns });
        if let Some(group) = group {
            batch.group.push(group);
        }
        if view.has_feeds() {
            batch.feed.push(feed);
        }
        (shard, batch.len() - 1)
    }
}

/// The rows of a view.
#[derive(Clone, Debug)]
pub struct ViewRows {
    /// The view.
    pub view: Arc<View>,
    /// Its rows.
    pub batch: Batch,
}

impl ViewRows {
    pub(super) fn new(view: &ViewPlan, width: usize) -> Self {
        Self { view: view.view.clone(), batch: Batch::new(width) }
    }
}

/// Whether the states of a view belong to the group that is interned under this name.
pub(crate) fn has_group(view: &View, name: &str) -> bool {
    let Some(name) = name.strip_prefix(GROUP_MARK) else { return false };
    match view.scope {
        Scope::Symbol => false,
        Scope::Market => name == MARKET,
        Scope::Group => name.split_once('/').is_some_and(|(family, _)| view.families.iter().any(|own| own == family)),
    }
}

/// The names under which the groups of a symbol are interned, in a view.
fn groups_of(view: &ViewPlan, plan: &IngestPlan, symbol: &str) -> Vec<String> {
    match view.view.scope {
        Scope::Symbol => Vec::new(),
        Scope::Market => vec![format!("{GROUP_MARK}{MARKET}")],
        Scope::Group => {
            let families = view.families.iter().zip(&view.view.families);
            let groups = families.filter_map(|(number, family)| {
                let group = plan.market.group_of(*number, symbol)?;
                // It is shown in alerts and logs.
                check_symbol(&group).ok()?;
                Some(format!("{GROUP_MARK}{family}/{group}"))
            });
            groups.collect()
        }
    }
}

/// Fills the columns of a row that are neither of the input, nor of the session, nor of bars.
fn fill_extras(
    row: &mut [f64],
    plan: &IngestPlan,
    facts: &SymbolPlan,
    (contexts, session): (&ContextValues, i32),
    computed: &[f64],
) {
    let layout = &plan.layout;
    row[layout.days_to_expiry()] = plan.market.reference().days_to_expiry(facts.reference, session);
    for (at, cell) in facts.links.reads.iter().enumerate() {
        row[layout.contexts() + at] = contexts.get(*cell);
    }
    row[layout.computed()..].copy_from_slice(computed);
}

/// Notes that a shard knows a member. Returns whether it did not before.
fn show_to(shown_to: &mut Vec<bool>, shard: usize, shards: usize) -> bool {
    shown_to.resize(shards, false);
    !std::mem::replace(&mut shown_to[shard], true)
}

fn push_clock(rows: &mut ViewRows, entry: u32, second: u64) {
    rows.batch.push_clock(entry, second);
    if rows.view.has_groups() {
        rows.batch.group.push(tickhound_core::event::CLOCK);
    }
    if rows.view.has_feeds() {
        rows.batch.feed.push(0);
    }
}
