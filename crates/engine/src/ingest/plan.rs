//! What the detectors of a generation want of ingest beside ticks of symbols: views, contexts, bars and computed columns.
//!
//! What holds: a plan never changes. Bars are in the order of their lengths, so that the order of rows that end at one place
//! does not depend on what other detectors ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::plugin::{BatchColumns, Feed, GROUP_MARK, Generation, Scope, View};
use tickhound_core::market::{Market, computed::RowKind, series::SeriesWanted};

/// What is wanted of ingest.
#[derive(Debug)]
pub struct IngestPlan {
    /// Groups, contexts and reference data.
    pub(super) market: Arc<Market>,
    /// The columns of each row.
    pub(super) layout: Arc<BatchColumns>,
    /// The views beside that of contract 0.1.
    pub(super) views: Vec<ViewPlan>,
    pub(super) series: SeriesWanted,
    /// The distances of snapshots, seconds, without repetition and in order.
    pub(super) steps: Vec<u32>,
    /// The fingerprints of the families of its views, and of its contexts.
    pub(super) covers: Vec<u64>,
}

/// The fingerprint of the group of all symbols, which always has all members.
const MARKET_FINGERPRINT: u64 = 0;

/// A view, resolved.
#[derive(Debug)]
pub(super) struct ViewPlan {
    pub(super) view: Arc<View>,
    /// The numbers of its families.
    pub(super) families: Vec<usize>,
    /// The feed of its ticks.
    pub(super) ticks: Option<u8>,
    /// The feeds of its bars, with the position of their length in the plan's series.
    pub(super) bars: Vec<(u8, usize)>,
    /// The feeds of its snapshots, with their distance in seconds.
    pub(super) snapshots: Vec<(u8, u32)>,
    /// Whether one of its detectors uses clock rows. Otherwise it has none, which would be a call each second without a bar.
    pub(super) wants_clock: bool,
}

impl IngestPlan {
    /// What the detectors of a generation want; `None` if that is only ticks of symbols with the columns of the input and of the
    /// session.
    pub fn of(generation: &Generation) -> Option<Self> {
        let columns = &generation.columns;
        let specs = || generation.detectors.iter();
        let is_wide = |position: usize| position >= columns.days_to_expiry();
        let is_wanted = specs().any(|spec| !spec.view().is_of_ticks() || spec.batch_columns().any(is_wide));
        is_wanted.then(|| {
            let views = specs().map(|spec| (spec.view().clone(), spec.plugin.manifest.wants_clock));
            Self::new(generation.market.clone(), columns.clone(), views)
        })
    }

    /// The fingerprint of what decides who is a member of the group that is interned under this name.
    pub(super) fn group_fingerprint(&self, name: &str) -> u64 {
        let family = name.strip_prefix(GROUP_MARK).and_then(|name| name.split_once('/')).map(|(family, _)| family);
        let number = family.and_then(|family| self.market.families().position(|known| known == family));
        number.map_or(MARKET_FINGERPRINT, |number| self.market.family_fingerprint(number))
    }

    /// `detectors` are their views, with whether each uses clock rows.
    pub(super) fn new(
        market: Arc<Market>,
        layout: Arc<BatchColumns>,
        detectors: impl IntoIterator<Item = (View, bool)>,
    ) -> Self {
        let computed = layout.computations().to_vec();
        let mut views: BTreeMap<View, bool> = BTreeMap::new();
        for (view, wants_clock) in detectors.into_iter().filter(|(view, _)| !view.is_of_ticks()) {
            *views.entry(view).or_default() |= wants_clock;
        }
        let feeds = || views.keys().flat_map(|view| view.feeds.iter().copied());
        let of_bars = feeds().filter_map(|feed| if let Feed::Bars(seconds) = feed { Some(seconds) } else { None });
        let of_computed = computed.iter().filter_map(|computation| match computation.rows {
            RowKind::Bars(seconds) => Some(seconds),
            RowKind::Ticks => None,
        });
        let bars: BTreeSet<u32> = of_bars.chain(of_computed).collect();
        let steps: BTreeSet<u32> =
            feeds().filter_map(|feed| if let Feed::Snapshots(seconds) = feed { Some(seconds) } else { None }).collect();
        let last_values = feeds().any(|feed| feed != Feed::Ticks);
        let bars: Vec<u32> = bars.into_iter().collect();
        let views: Vec<ViewPlan> = views.into_iter().map(|view| ViewPlan::new(view, &market, &bars)).collect();
        let families = views.iter().flat_map(|view| &view.families).map(|family| market.family_fingerprint(*family));
        let contexts = (0..market.contexts().len()).map(|context| market.context_fingerprint(context));
        let of_market = views.iter().any(|view| view.view.scope == Scope::Market).then_some(MARKET_FINGERPRINT);
        let covers: BTreeSet<u64> = families.chain(contexts).chain(of_market).collect();
        Self {
            views,
            covers: covers.into_iter().collect(),
            series: SeriesWanted { bars, last_values, columns: layout.input(), computed },
            steps: steps.into_iter().collect(),
            layout,
            market,
        }
    }
}

impl ViewPlan {
    fn new((view, wants_clock): (View, bool), market: &Market, lengths: &[u32]) -> Self {
        let families = view.families.iter().filter_map(|name| market.families().position(|known| known == name));
        let families = if view.scope == Scope::Group { families.collect() } else { Vec::new() };
        let (mut ticks, mut bars, mut snapshots) = (None, Vec::new(), Vec::new());
        for (number, feed) in (0u8..).zip(&view.feeds) {
            match feed {
                Feed::Ticks => ticks = Some(number),
                Feed::Bars(seconds) => bars.extend(lengths.iter().position(|l| l == seconds).map(|at| (number, at))),
                Feed::Snapshots(seconds) => snapshots.push((number, *seconds)),
            }
        }
        Self { view: Arc::new(view), families, ticks, bars, snapshots, wants_clock }
    }
}
