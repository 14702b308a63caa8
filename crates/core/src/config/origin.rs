//! Where the value in force of a key comes from: the file, a variable, the live detector of a shadow, or the defaults.

use std::{collections::BTreeMap, fmt};

use super::LoadedConfig;

/// Where values come from that the file does not set, by the path of their keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins {
    /// The name of the variable.
    pub(super) variables: BTreeMap<Vec<String>, String>,
    /// The name of the live detector.
    pub(super) inherited: BTreeMap<Vec<String>, String>,
}

impl Origins {
    pub(super) fn variable(&self, path: &[&str]) -> Option<&str> {
        self.variables.get(&key(path)).map(String::as_str)
    }

    /// The first variable that sets a key of a table.
    pub(super) fn variable_within(&self, table: &[&str]) -> Option<&str> {
        let is_within = |path: &[String]| path.len() > table.len() && path.iter().zip(table).all(|(a, b)| a == b);
        self.variables.iter().find(|(path, _)| is_within(path)).map(|(_, name)| name.as_str())
    }

    pub(super) fn live(&self, path: &[&str]) -> Option<&str> {
        self.inherited.get(&key(path)).map(String::as_str)
    }
}

fn key(path: &[&str]) -> Vec<String> {
    path.iter().map(|&part| part.to_owned()).collect()
}

/// The path of the same key in the table of the detector `live`.
pub(super) fn in_table_of<'a>(live: &'a str, path: &[&'a str]) -> Vec<&'a str> {
    [&["detectors", live], &path[2..]].concat()
}

/// Where a value in force comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file, at this position: `file:line:column`.
    File(String),
    /// The environment variable of this name.
    Variable(String),
    /// The live detector of a shadow.
    Inherited {
        /// The live detector's name.
        live: String,
        /// Where the live detector's value comes from.
        origin: Box<Self>,
    },
    /// The default of the key.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(position) => f.write_str(position),
            Self::Variable(name) => f.write_str(name),
            Self::Inherited { live, origin } if **origin == Self::Default => write!(f, "from {live}"),
            Self::Inherited { live, origin } => write!(f, "from {live}, {origin}"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl LoadedConfig {
    /// Returns where the value of the key at `path` comes from.
    pub fn origin(&self, path: &[&str]) -> Origin {
        let origins = self.source.origins();
        if let Some(variable) = origins.variable(path) {
            return Origin::Variable(variable.to_owned());
        }
        if let Some(live) = origins.live(path) {
            let origin = Box::new(self.origin(&in_table_of(live, path)));
            return Origin::Inherited { live: live.to_owned(), origin };
        }
        if self.source.sets(path) { Origin::File(self.source.at(path)) } else { Origin::Default }
    }

    /// Returns where the parameters of a detector come from, for an error that does not name one of them: the position of its
    /// table, and the variables that set some.
    pub fn position_of_params(&self, detector: &str) -> String {
        let live = self.config.detectors.get(detector).map_or("", |detector| detector.shadow_of.as_str());
        let variables = [detector, live].into_iter().flat_map(|of| self.variables_below(&["detectors", of, "params"]));
        let position = self.source.at(&["detectors", detector]);
        variables.fold(position, |position, variable| format!("{position} and {variable}"))
    }

    /// Returns the variables that set keys below `path`.
    pub fn variables_below(&self, path: &[&str]) -> Vec<&str> {
        let is_below = |key: &[String]| key.len() >= path.len() && key.iter().zip(path).all(|(key, part)| key == part);
        self.source.origins().variables.iter().filter(|(key, _)| is_below(key)).map(|(_, name)| name.as_str()).collect()
    }
}
