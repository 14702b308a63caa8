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
        let key: Vec<String> = path.iter().map(|&part| part.to_owned()).collect();
        if let Some(variable) = self.origins.variables.get(&key) {
            return Origin::Variable(variable.clone());
        }
        if let Some(live) = self.origins.inherited.get(&key) {
            let of_live: Vec<&str> = [&["detectors", live.as_str()], &path[2..]].concat();
            return Origin::Inherited { live: live.clone(), origin: Box::new(self.origin(&of_live)) };
        }
        if self.source.sets(path) { Origin::File(self.source.at(path)) } else { Origin::Default }
    }

    /// Returns the variables that set keys below `path`.
    pub fn variables_below(&self, path: &[&str]) -> Vec<&str> {
        let is_below = |key: &[String]| key.len() >= path.len() && key.iter().zip(path).all(|(key, part)| key == part);
        self.origins.variables.iter().filter(|(key, _)| is_below(key)).map(|(_, name)| name.as_str()).collect()
    }
}
