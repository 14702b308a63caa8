//! `[groups.NAME]`: families of groups of symbols, which detectors of scope `group` see together.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    Source,
    section::{Section, is_name},
};
use crate::market::{UNDERLYING, groups::MARKET};

/// `[groups.NAME]`: a family of groups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FamilyConfig {
    /// The members: `*` matches any text, `?` one character. Empty, with `by`: all symbols.
    pub symbols: Vec<String>,
    /// The text column of the reference data by which members are divided into groups, or `underlying`. Empty: the members are
    /// one group, which has the family's name.
    pub by: String,
}

pub(super) fn validate(families: &BTreeMap<String, FamilyConfig>, source: &Source) -> Result<()> {
    for (name, family) in families {
        let section = Section::new(source, &["groups", name]);
        let at = section.position();
        ensure!(is_name(name), "{at}: the group `{name}`: expected letters, digits, - and _");
        ensure!(
            name != UNDERLYING && name != MARKET,
            "{at}: the name `{name}` is taken: each symbol is in the group of its underlying, and in that of the whole market, \
             without [groups]; choose another name"
        );
        ensure!(
            !family.symbols.is_empty() || !family.by.is_empty(),
            "{at}: groups.{name} has neither `symbols` nor `by`, so it has no members"
        );
        ensure!(
            family.symbols.iter().all(|pattern| !pattern.trim().is_empty()),
            "{}: groups.{name}.symbols has an empty pattern, which matches no symbol; `*` matches all of them",
            section.at("symbols")
        );
    }
    Ok(())
}
