//! Compiles field names into a trie of paths, so that one pass over a document reaches every value.

use anyhow::{Result, bail};

use super::preset::{self, EventCode, Preset};
use crate::{
    config::{InputConfig, input::VenueRule, nearest},
    event::column,
};

/// What a value is for. A column has its position in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Symbol,
    Time,
    Price,
    Venue,
    Column(usize),
}

/// The targets that `[input.map]` and the aliases of presets may name.
pub(super) const NAMED: [(&str, Target); 12] = [
    ("symbol", Target::Symbol),
    ("time", Target::Time),
    ("price", Target::Price),
    ("quantity", Target::Column(column::QUANTITY)),
    ("cum_volume", Target::Column(column::CUM_VOLUME)),
    ("bid", Target::Column(column::BID)),
    ("ask", Target::Column(column::ASK)),
    ("bid_quantity", Target::Column(column::BID_QUANTITY)),
    ("ask_quantity", Target::Column(column::ASK_QUANTITY)),
    ("oi", Target::Column(column::OI)),
    ("volume", Target::Column(column::VOLUME)),
    ("venue", Target::Venue),
];

/// The number of targets that are not columns.
const BEFORE_COLUMNS: usize = 4;

impl Target {
    /// The position in a list of all targets.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Symbol => 0,
            Self::Time => 1,
            Self::Price => 2,
            Self::Venue => 3,
            Self::Column(position) => BEFORE_COLUMNS + position,
        }
    }
}

/// A position in documents: what its value is for, and which names lead on from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    keys: Keys,
    /// Index in a list, and node, of each element that a path leads to.
    positions: Vec<(usize, usize)>,
    /// The targets that the value is for, each with the rank of this alias among the target's.
    pub(super) targets: Vec<(Target, u16)>,
    /// The values that mark a message as one to skip; `Some(&[])`: any value.
    pub(super) skips: Option<&'static [&'static str]>,
    /// Whether each member of the object here is a tick, under its symbol.
    pub(super) is_tick_map: bool,
    /// Whether the value is the code of an event.
    pub(super) is_event_code: bool,
}

/// The nodes that names lead to. Most names of a document lead nowhere, and are excluded by length and first byte.
#[derive(Clone, Debug, Default)]
struct Keys {
    /// Name and node, sorted by the length of the name.
    names: Vec<(Box<[u8]>, usize)>,
    /// For each length, the index of the first name of at least this length.
    lengths: Vec<usize>,
}

impl Keys {
    fn get(&self, name: &[u8]) -> Option<usize> {
        let [from, until] = *self.lengths.get(name.len()..)?.first_chunk()?;
        // The first byte is compared before the rest, as that is cheaper than a call to compare slices.
        let matches = |known: &[u8]| known.first() == name.first() && known == name;
        self.names[from..until].iter().find(|(known, _)| matches(known)).map(|(_, node)| *node)
    }

    fn insert(&mut self, name: &str, node: usize) {
        let at = self.names.partition_point(|(known, _)| known.len() <= name.len());
        self.names.insert(at, (name.as_bytes().into(), node));
        let longest = self.names.last().map_or(0, |(name, _)| name.len());
        let begins = |length| self.names.partition_point(|(known, _)| known.len() < length);
        self.lengths = (0..=longest + 1).map(begins).collect();
    }
}

impl Node {
    /// Whether paths lead through this node.
    pub(super) fn is_inner(&self) -> bool {
        !self.keys.names.is_empty() || !self.positions.is_empty()
    }
}

/// One step of a path.
#[derive(Clone, Debug)]
enum Step {
    Key(Box<str>),
    Index(usize),
}

/// The targets of the price and the quantity in events of one code, of vendors that publish events.
#[derive(Clone, Debug)]
pub(super) struct EventTargets {
    pub(super) code: i64,
    pub(super) price: Option<Target>,
    pub(super) quantity: Option<Target>,
}

/// The compiled mapping of field names to targets.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    nodes: Vec<Node>,
    targets: usize,
    pub(super) price_scale: f64,
    has_tick_map: bool,
    /// Empty unless the vendor publishes events.
    pub(super) events: Vec<EventTargets>,
    symbol_names: String,
    price_names: String,
    /// The venues that numbers stand for.
    pub(super) venues: &'static [(i64, &'static str)],
}

/// The root of every path.
pub(super) const ROOT: usize = 0;

impl Mapping {
    /// Compiles the preset and the paths of the configuration.
    pub(super) fn compile(config: &InputConfig) -> Result<Self> {
        let Some(preset) = preset::find(&config.preset) else {
            let names: Vec<&str> = preset::names().collect();
            let near = nearest(&config.preset, names.iter().copied());
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            bail!("input.preset: `{}` is not a preset, expected one of {}{near}", config.preset, names.join(", "));
        };
        if let Some(wrong) = config.map.keys().find(|name| NAMED.iter().all(|(known, _)| known != name)) {
            let near = nearest(wrong, NAMED.iter().map(|(name, _)| *name));
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            let names = NAMED.map(|(name, _)| name).join(", ");
            bail!("input.map.{wrong}: expected one of {names}{near} (for another column use [input.extra])");
        }
        let mut mapping = Self {
            nodes: vec![Node::default()],
            targets: BEFORE_COLUMNS + column::NAMES.len() + config.extra.len(),
            price_scale: preset.price_scale * config.price_scale,
            has_tick_map: false,
            events: Vec::new(),
            symbol_names: String::new(),
            price_names: String::new(),
            venues: preset.venues,
        };
        let is_read = |target| target != Target::Venue || config.venue != VenueRule::Strip;
        for (name, target) in NAMED.into_iter().filter(|(_, target)| is_read(*target)) {
            let own = config.map.get(name).into_iter().flatten().map(String::as_str);
            let aliases: Vec<&str> = own.chain(preset.aliases(name).iter().copied()).collect();
            mapping.add(target, &aliases, &format!("input.map.{name}"))?;
            match target {
                Target::Symbol => mapping.symbol_names = aliases.join(", "),
                Target::Price => mapping.price_names = aliases.join(", "),
                _ => {}
            }
        }
        for (position, (name, aliases)) in config.extra.iter().enumerate() {
            let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
            mapping.add(Target::Column(column::NAMES.len() + position), &aliases, &format!("input.extra.{name}"))?;
        }
        mapping.add_rules(preset)?;
        Ok(mapping)
    }

    fn add(&mut self, target: Target, aliases: &[&str], key: &str) -> Result<()> {
        for (rank, alias) in aliases.iter().enumerate() {
            let node = self.node(alias, key)?;
            self.nodes[node].targets.push((target, rank as u16));
        }
        Ok(())
    }

    fn add_rules(&mut self, preset: &Preset) -> Result<()> {
        for (path, values) in preset.skips {
            let node = self.node(path, "preset")?;
            self.nodes[node].skips = Some(values);
        }
        if let Some(path) = preset.tick_map {
            let node = self.node(path, "preset")?;
            self.nodes[node].is_tick_map = true;
            self.has_tick_map = true;
        }
        if let Some((path, events)) = preset.events {
            let node = self.node(path, "preset")?;
            self.nodes[node].is_event_code = true;
            let targets = |event: &EventCode| EventTargets {
                code: event.code,
                price: named(event.price),
                quantity: named(event.quantity),
            };
            self.events = events.iter().map(targets).collect();
        }
        Ok(())
    }

    /// The node at `path`, which is created if it is new.
    fn node(&mut self, path: &str, key: &str) -> Result<usize> {
        let Some(steps) = parse(path) else {
            bail!("{key}: `{path}` is not a path, expected names and positions such as depth.buy[0].price");
        };
        let mut node = ROOT;
        for step in steps {
            let next = self.nodes.len();
            let Node { keys, positions, .. } = &mut self.nodes[node];
            node = match step {
                Step::Key(name) => keys.get(name.as_bytes()).unwrap_or_else(|| {
                    keys.insert(&name, next);
                    next
                }),
                Step::Index(index) => match positions.iter().find(|(known, _)| *known == index) {
                    Some((_, child)) => *child,
                    None => {
                        positions.push((index, next));
                        next
                    }
                },
            };
            if node == next {
                self.nodes.push(Node::default());
            }
        }
        Ok(node)
    }

    pub(super) fn get(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    /// The number of targets, columns included.
    pub(super) fn targets(&self) -> usize {
        self.targets
    }

    /// The names of the symbol, for messages.
    pub(super) fn symbol_names(&self) -> &str {
        &self.symbol_names
    }

    /// The names of the price, for messages.
    pub(super) fn price_names(&self) -> &str {
        &self.price_names
    }

    /// Whether a document may contain an object of ticks by symbol.
    pub(super) fn has_tick_map(&self) -> bool {
        self.has_tick_map
    }

    /// The node that a key of an object leads to.
    pub(super) fn key(&self, node: usize, key: &[u8]) -> Option<usize> {
        self.nodes[node].keys.get(key)
    }

    /// The node that an index in a list leads to.
    pub(super) fn index(&self, node: usize, index: usize) -> Option<usize> {
        self.nodes[node].positions.iter().find(|(known, _)| *known == index).map(|(_, child)| *child)
    }
}

fn named(name: &str) -> Option<Target> {
    NAMED.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// Parses a path such as `depth.buy[0].price`.
fn parse(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (name, positions) = part.find('[').map_or((part, ""), |at| part.split_at(at));
        if name.is_empty() {
            return None;
        }
        steps.push(Step::Key(name.into()));
        for position in positions.split_inclusive(']') {
            let digits = position.strip_prefix('[')?.strip_suffix(']')?;
            steps.push(Step::Index(digits.parse().ok()?));
        }
    }
    Some(steps)
}
