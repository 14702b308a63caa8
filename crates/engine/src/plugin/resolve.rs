//! Resolves what a manifest asks for against the configuration, the input and the reference data: lengths, columns, texts and
//! groups.

use anyhow::{Result, bail, ensure};

use super::{
    columns::{BatchColumns, ColumnOrigin, DAYS_TO_EXPIRY},
    manifest::{ColumnFunction, DeclaredColumn, DeclaredFeed, Length, Manifest, Wake},
    params::Params,
    value::Value,
    view::{Feed, Scope, View},
    wiring::{ColumnSource, WakeCondition, WakeSide, Wiring},
};
use tickhound_core::{
    config::{DetectorConfig, LoadedConfig, nearest},
    market::{
        Market,
        bars::SECONDS_MAX,
        computed::{Computation, Function, LENGTH_MAX, RowKind, RowValue},
    },
};

/// A detector that is resolved.
pub(super) struct Resolving<'a> {
    /// Its name in the configuration.
    pub(super) detector: &'a str,
    pub(super) manifest: &'a Manifest,
    pub(super) params: &'a Params,
    pub(super) config: &'a DetectorConfig,
    pub(super) loaded: &'a LoadedConfig,
}

impl Resolving<'_> {
    /// Resolves everything that the manifest asks for. Its computed columns become part of `columns`.
    ///
    /// # Errors
    /// Names the key, what is wrong, and what to do.
    pub(super) fn wiring(&self, columns: &mut BatchColumns) -> Result<Wiring> {
        let view = View { scope: self.manifest.scope, families: self.families()?, feeds: self.feeds()? };
        let mut wiring = Wiring { texts: self.texts()?, ..Wiring::default() };
        let has_bars = view.feeds.iter().any(|feed| matches!(feed, Feed::Bars(_)));
        for column in &self.manifest.columns {
            let source = match self.source(&column.name, has_bars, columns, &mut wiring.constants) {
                None if column.required => bail!(self.missing_column(&column.name, columns)),
                None => ColumnSource::Absent,
                Some(source) => source,
            };
            wiring.columns.push(source);
        }
        for computed in &self.manifest.computed {
            let position = columns.add(self.computation(computed)?);
            wiring.columns.push(ColumnSource::Batch(position));
        }
        wiring.wakes = self.manifest.wakes.iter().filter_map(|wake| self.condition(wake)).collect();
        Ok(Wiring { view, ..wiring })
    }

    fn market(&self) -> &Market {
        &self.loaded.market
    }

    /// Returns the families whose groups the detector sees.
    fn families(&self) -> Result<Vec<String>> {
        let at = || self.loaded.source.at(&["detectors", self.detector, "groups"]);
        let (name, groups) = (&self.manifest.name, &self.config.groups);
        if self.manifest.scope != Scope::Group {
            ensure!(
                *groups == DetectorConfig::default().groups,
                "{}: {name} sees {}, so `groups` has no effect: remove it",
                at(),
                if self.manifest.scope == Scope::Symbol { "one symbol at a time" } else { "all symbols together" }
            );
            return Ok(Vec::new());
        }
        // That there are such families was checked with the configuration.
        let mut families = groups.clone();
        families.sort_unstable();
        Ok(families)
    }

    fn feeds(&self) -> Result<Vec<Feed>> {
        let mut feeds = Vec::new();
        for feed in &self.manifest.feeds {
            let feed = self.feed(feed)?;
            ensure!(
                !feeds.contains(&feed),
                "{}: with these parameters {} reads {feed} twice",
                self.loaded.position_of_params(self.detector),
                self.manifest.name
            );
            feeds.push(feed);
        }
        Ok(feeds)
    }

    fn feed(&self, feed: &DeclaredFeed) -> Result<Feed> {
        Ok(match feed {
            DeclaredFeed::Ticks => Feed::Ticks,
            DeclaredFeed::Bars(length) => Feed::Bars(self.length(length, "bars, in seconds", SECONDS_MAX)?),
            DeclaredFeed::Snapshots(length) => {
                Feed::Snapshots(self.length(length, "steps between snapshots, in seconds", SECONDS_MAX)?)
            }
        })
    }

    /// Returns a length of 1 to `most`. `what` says of what.
    fn length(&self, length: &Length, what: &str, most: u32) -> Result<u32> {
        let name = match length {
            Length::Fixed(length) => return Ok(*length),
            Length::Param(name) => name,
        };
        let value = self.params.iter().find_map(|(param, value)| match value {
            Value::Integer(value) if param == name => Some(*value),
            _ => None,
        });
        let length = value.and_then(|value| u32::try_from(value).ok()).filter(|length| (1..=most).contains(length));
        let Some(length) = length else {
            bail!(
                "{}: parameter `{name}` is {}, expected 1 to {most}, since it is the length of {what}",
                self.loaded.source.at(&["detectors", self.detector, "params", name]),
                value.unwrap_or_default()
            );
        };
        Ok(length)
    }

    fn computation(&self, computed: &DeclaredColumn) -> Result<Computation> {
        let DeclaredColumn { name, function, of, feed, length } = computed;
        Ok(Computation {
            function: match function {
                ColumnFunction::Highest => Function::Highest,
                ColumnFunction::Lowest => Function::Lowest,
                ColumnFunction::Mean => Function::Mean,
                ColumnFunction::EwVolatility => Function::EwVolatility,
            },
            // The manifest has been checked.
            of: match of.as_str() {
                "high" => RowValue::High,
                "low" => RowValue::Low,
                _ => RowValue::Price,
            },
            rows: match self.feed(feed)? {
                Feed::Bars(seconds) | Feed::Snapshots(seconds) => RowKind::Bars(seconds),
                Feed::Ticks => RowKind::Ticks,
            },
            length: self.length(length, &format!("the column `{name}`, in rows"), LENGTH_MAX)?,
        })
    }

    /// Returns where the detector reads the values of a column, if there is one of this name.
    fn source(
        &self,
        name: &str,
        has_bars: bool,
        columns: &BatchColumns,
        constants: &mut Vec<usize>,
    ) -> Option<ColumnSource> {
        let position = match columns.origin(name, has_bars, self.market().reference())? {
            ColumnOrigin::Bar => columns.of_bars(name),
            ColumnOrigin::Input => columns.of_input(name),
            ColumnOrigin::Session => columns.of_session(name),
            ColumnOrigin::Expiry => Some(columns.days_to_expiry()),
            ColumnOrigin::Context => columns.of_context(name),
            ColumnOrigin::Reference(number) => {
                constants.push(number);
                return Some(ColumnSource::Constant(constants.len() - 1));
            }
        };
        position.map(ColumnSource::Batch)
    }

    fn missing_column(&self, name: &str, columns: &BatchColumns) -> String {
        let at = self.loaded.source.at(&["detectors", self.detector]);
        let manifest = &self.manifest.name;
        if name == DAYS_TO_EXPIRY {
            return format!(
                "{at}: {manifest} needs the column `{name}`: give the symbols an `expiry` in a file of [reference]"
            );
        }
        if let Some(why) = self.market().reference().explain(name) {
            return format!("{at}: {manifest} needs the column `{name}`: {why}");
        }
        let near = nearest(name, columns.names().chain(self.market().reference().numeric_columns()));
        let near = near.map(|near| format!("; did its author mean `{near}`?")).unwrap_or_default();
        format!(
            "{at}: {manifest} needs the column `{name}`, which the input does not have: define it in [input.extra], in \
             [context], or in a file of [reference]{near}"
        )
    }

    fn texts(&self) -> Result<Vec<Option<usize>>> {
        let known = self.market().text_columns();
        let mut texts = Vec::new();
        for text in &self.manifest.texts {
            let number = known.iter().position(|known| *known == text.name);
            ensure!(
                number.is_some() || !text.required,
                "{}: {} needs the text `{}` of each symbol: add it to a file of [reference]; there is {}",
                self.loaded.source.at(&["detectors", self.detector]),
                self.manifest.name,
                text.name,
                known.join(", ")
            );
            texts.push(number);
        }
        Ok(texts)
    }

    /// Returns the condition that a wake is.
    fn condition(&self, wake: &Wake) -> Option<WakeCondition> {
        let (side, name) = match wake {
            Wake::Above(name) => (WakeSide::Above, name),
            Wake::Below(name) => (WakeSide::Below, name),
        };
        let names = self.manifest.columns.iter().map(|column| &column.name);
        let mut names = names.chain(self.manifest.computed.iter().map(|computed| &computed.name));
        Some(WakeCondition { side, column: names.position(|column| column == name)? })
    }
}
