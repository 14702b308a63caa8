//! `[session]`: the hours and days on which the markets of the symbols trade.

use std::{fs, io::Read, path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{
    Source,
    calendar::{BUILT_IN, parse},
    section::{Section, is_name},
};
use crate::{
    nearest::nearest,
    pattern::SymbolPattern,
    session::{Calendar, Sessions, SymbolCalendar},
};

/// The largest file of a calendar, bytes. A century of holidays takes a tenth of it.
const FILE_MAX: u64 = 1 << 20;

/// `[session]`: the hours and days on which the markets of the symbols trade.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// The calendar of all symbols that `by_symbol` does not name: `sessions/NAME.toml` beside the configuration, or one that
    /// is built in. Empty: each calendar day of `input.timezone` is a session.
    pub calendar: String,
    /// The calendars of other symbols. The first one with a matching pattern counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_symbol: Vec<SymbolSession>,
    /// The calendars as loaded.
    #[serde(skip)]
    pub sessions: Sessions,
}

/// `[[session.by_symbol]]`: the calendar of some symbols.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SymbolSession {
    /// The symbols: `*` matches any text, `?` one character.
    pub symbols: Vec<String>,
    /// Their calendar.
    pub calendar: String,
}

impl SessionConfig {
    /// All symbols with the calendar of this name, from the folder `sessions` in `folder` or from those that are built in.
    /// Without a name, each calendar day is a session.
    ///
    /// # Errors
    /// When there is no such calendar, or it can't be read.
    pub fn of_calendar(name: &str, folder: &Path) -> Result<Self> {
        let default = if name.is_empty() { None } else { Some(Arc::new(calendar(name, folder, "calendar")?)) };
        Ok(Self { calendar: name.to_owned(), sessions: Sessions::new(default, Vec::new()), ..Self::default() })
    }

    /// Loads the calendars, from the folder `sessions` in `folder` or from those that are built in.
    pub(super) fn load(&mut self, folder: &Path, source: &Source) -> Result<()> {
        let section = Section::new(source, &["session"]);
        let default = match self.calendar.as_str() {
            "" => None,
            name => Some(Arc::new(calendar(name, folder, &section.at("calendar"))?)),
        };
        let mut by_symbol = Vec::new();
        for (number, SymbolSession { symbols, calendar: name }) in self.by_symbol.iter().enumerate() {
            let at = |key: &str| source.at(&["session", "by_symbol", &number.to_string(), key]);
            ensure!(!symbols.is_empty(), "{}: session.by_symbol has no symbols", at("symbols"));
            ensure!(
                symbols.iter().all(|pattern| !pattern.trim().is_empty()),
                "{}: session.by_symbol has an empty pattern, which matches no symbol; `*` matches all of them",
                at("symbols")
            );
            let calendar = Arc::new(calendar(name, folder, &at("calendar"))?);
            by_symbol.push(SymbolCalendar { patterns: SymbolPattern::list(symbols), calendar });
        }
        self.sessions = Sessions::new(default, by_symbol);
        Ok(())
    }
}

/// The calendar of this name, which the configuration has `at` a position.
fn calendar(name: &str, folder: &Path, at: &str) -> Result<Calendar> {
    ensure!(is_name(name), "{at}: the calendar is `{name}`, expected letters, digits, - and _");
    let path = folder.join("sessions").join(format!("{name}.toml"));
    let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
    let text = match (fs::File::open(&path), built_in) {
        (Ok(file), _) => {
            let mut text = String::new();
            file.take(FILE_MAX + 1)
                .read_to_string(&mut text)
                .with_context(|| format!("can't read {}", path.display()))?;
            ensure!(text.len() as u64 <= FILE_MAX, "{}: is larger than {} KiB", path.display(), FILE_MAX >> 10);
            text
        }
        (Err(error), Some((_, text))) if error.kind() == std::io::ErrorKind::NotFound => (*text).to_owned(),
        (Err(error), None) if error.kind() == std::io::ErrorKind::NotFound => {
            let names = BUILT_IN.map(|(name, _)| name);
            let near = nearest(name, names.into_iter());
            let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            bail!(
                "{at}: the calendar is `{name}`, but there is no {}; those built in are {}{near}",
                path.display(),
                names.join(", ")
            );
        }
        (Err(error), _) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    };
    parse(name, &Source::parse(&path, text)?)
}
