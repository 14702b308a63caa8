//! Field names compiled into a trie of paths, so that one walk over a document finds every value.

use anyhow::{Result, bail};

use super::preset::{self, Preset};
use crate::{
    config::{InputConfig, nearest},
    event::column,
};

/// What a value is for. Columns keep their position in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Symbol,
    Time,
    Price,
    Column(usize),
}

/// Targets that `[input.map]` may name, with their aliases' place in a preset.
pub(super) const NAMED: [(&str, Target); 11] = [
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
];

/// Targets that are no column.
const BEFORE_COLUMNS: usize = 3;

impl Target {
    /// Position in a table of all targets.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Symbol => 0,
            Self::Time => 1,
            Self::Price => 2,
            Self::Column(position) => BEFORE_COLUMNS + position,
        }
    }
}

/// A place in documents: what its value is for, and what lies below.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    keys: Keys,
    positions: Vec<(usize, usize)>,
    /// Targets that its value serves, each with the rank of this alias among the target's.
    pub(super) serves: Vec<(Target, u16)>,
    /// Values that make the whole message one to skip; `Some(&[])`: whatever is there.
    pub(super) skips: Option<&'static [&'static str]>,
    /// Each member of the object here is a tick of its own, its key the symbol.
    pub(super) each: bool,
    /// Its value tells what the tick's price and quantity are of.
    pub(super) kind: bool,
}

/// What names lead to. Most names of a document lead nowhere, which their length and first byte tell.
#[derive(Clone, Debug, Default)]
struct Keys {
    /// By length.
    names: Vec<(Box<[u8]>, usize)>,
    /// Where the names of each length begin.
    lengths: Vec<usize>,
}

impl Keys {
    fn get(&self, name: &[u8]) -> Option<usize> {
        let [from, until] = *self.lengths.get(name.len()..)?.first_chunk()?;
        let is_it = |known: &[u8]| known.first() == name.first() && known == name;
        self.names[from..until].iter().find(|(known, _)| is_it(known)).map(|(_, node)| *node)
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
    /// Whether paths lead through it.
    pub(super) fn is_inner(&self) -> bool {
        !self.keys.names.is_empty() || !self.positions.is_empty()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Key(Box<str>),
    Index(usize),
}

/// What price and quantity are of in ticks of one kind, where a tick is one event.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) code: i64,
    pub(super) price: Option<Target>,
    pub(super) quantity: Option<Target>,
}

#[derive(Clone, Debug)]
pub(super) struct Mapping {
    nodes: Vec<Node>,
    targets: usize,
    pub(super) price_scale: f64,
    has_each: bool,
    /// Empty where every tick tells by its names what its values are.
    pub(super) kinds: Vec<Kind>,
    symbol_names: String,
    price_names: String,
}

/// The root of every path.
pub(super) const ROOT: usize = 0;

impl Mapping {
    pub(super) fn compile(config: &InputConfig) -> Result<Self> {
        let Some(preset) = preset::find(&config.preset) else {
            let names: Vec<&str> = preset::names().collect();
            let near = nearest(&config.preset, names.iter().copied());
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            bail!("input.preset: there is no preset `{}`: expected one of {}{near}", config.preset, names.join(", "));
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
            has_each: false,
            kinds: Vec::new(),
            symbol_names: String::new(),
            price_names: String::new(),
        };
        for (name, target) in NAMED {
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
            self.nodes[node].serves.push((target, rank as u16));
        }
        Ok(())
    }

    fn add_rules(&mut self, preset: &Preset) -> Result<()> {
        for (path, values) in preset.skips {
            let node = self.node(path, "preset")?;
            self.nodes[node].skips = Some(values);
        }
        if let Some(path) = preset.each {
            let node = self.node(path, "preset")?;
            self.nodes[node].each = true;
            self.has_each = true;
        }
        if let Some((path, kinds)) = preset.kinds {
            let node = self.node(path, "preset")?;
            self.nodes[node].kind = true;
            let kind = |(code, price, quantity): &(i64, &str, &str)| Kind {
                code: *code,
                price: named(price),
                quantity: named(quantity),
            };
            self.kinds = kinds.iter().map(kind).collect();
        }
        Ok(())
    }

    /// The node at `path`, made if it is new.
    fn node(&mut self, path: &str, key: &str) -> Result<usize> {
        let Some(steps) = parse(path) else {
            bail!("{key}: `{path}` is no path; expected names and positions such as depth.buy[0].price");
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

    /// Number of targets, columns included.
    pub(super) fn targets(&self) -> usize {
        self.targets
    }

    pub(super) fn symbol_names(&self) -> &str {
        &self.symbol_names
    }

    pub(super) fn price_names(&self) -> &str {
        &self.price_names
    }

    /// Whether members of an object may be ticks of their own.
    pub(super) fn has_each(&self) -> bool {
        self.has_each
    }

    pub(super) fn key(&self, node: usize, key: &[u8]) -> Option<usize> {
        self.nodes[node].keys.get(key)
    }

    pub(super) fn index(&self, node: usize, index: usize) -> Option<usize> {
        self.nodes[node].positions.iter().find(|(known, _)| *known == index).map(|(_, child)| *child)
    }
}

fn named(name: &str) -> Option<Target> {
    NAMED.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// `depth.buy[0].price` as steps.
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
