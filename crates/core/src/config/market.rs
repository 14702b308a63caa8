//! Builds the reference data, groups and contexts of a configuration, and checks that they fit each other and the input.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Config, ContextConfig, LoadedConfig, Source, time_zone};
use crate::{
    event::column,
    market::{
        Market, UNDERLYING,
        context::{ContextRule, ContextSource, ContextValue, NamedSymbols},
        groups::{Family, GroupRule},
        is_column_of_rows,
        reference::{self, FileStamp, ReadTable, Reference, ReferenceBuilder, ReferenceSettings},
    },
    nearest::nearest,
    pattern::SymbolPattern,
};

/// Builds the market of a configuration.
///
/// # Errors
/// Names the key, its value and what is allowed.
pub(super) fn build(config: &Config, source: &Source, reference: Arc<Reference>) -> Result<Market> {
    let groups = families(config, source, &reference)?;
    let contexts = contexts(config, source, &reference)?;
    let Config { reference: section, groups: families, context, .. } = config;
    Ok(Market::new(reference, groups, contexts, &format!("{section:?}\0{families:?}\0{context:?}")))
}

/// Reads the reference data of a configuration. That of before is used again if neither files nor settings differ.
pub(super) fn load_reference(
    loaded: &LoadedConfig,
    read: ReadTable,
    before: Option<&Arc<Reference>>,
) -> Result<Arc<Reference>> {
    let settings = reference_settings(&loaded.config);
    let is_same = |name: &str, stamp| FileStamp::of(&loaded.resolve(Path::new(name))) == Some(stamp);
    if let Some(before) = before.filter(|before| before.is_of(&settings, is_same)) {
        return Ok(before.clone());
    }
    let mut builder = ReferenceBuilder::new(settings);
    for name in &loaded.config.reference.files {
        let path = loaded.resolve(name);
        reference::read_file(&path, &name.display().to_string(), read, &mut builder)
            .with_context(|| format!("{}: {}", loaded.source.at(&["reference", "files"]), path.display()))?;
    }
    builder.finish().map(Arc::new).with_context(|| loaded.source.at(&["reference"]))
}

fn reference_settings(config: &Config) -> ReferenceSettings {
    let Config { reference: section, input, context, .. } = config;
    ReferenceSettings {
        files: section.files.clone(),
        symbol: section.symbol.clone(),
        venues: section.venues.clone(),
        texts: section.texts.clone(),
        columns: section.columns.clone(),
        taken: input.extra.keys().chain(context.keys()).cloned().collect(),
        // Loading the configuration has checked that the zone exists.
        zone: time_zone(&input.timezone).unwrap_or(jiff::tz::TimeZone::UTC),
    }
}

fn families(config: &Config, source: &Source, reference: &Reference) -> Result<Vec<Family>> {
    let family = |(name, family): (&String, &super::FamilyConfig)| {
        let patterns = (!family.symbols.is_empty()).then(|| SymbolPattern::list(&family.symbols));
        let rule = match family.by.as_str() {
            "" => GroupRule::One,
            UNDERLYING => GroupRule::Underlying,
            column => GroupRule::Text(text_column(column, reference, || source.at(&["groups", name, "by"]))?),
        };
        Ok(Family { name: name.clone(), patterns, rule })
    };
    config.groups.iter().map(family).collect()
}

fn contexts(config: &Config, source: &Source, reference: &Reference) -> Result<Vec<(ContextRule, ContextSource)>> {
    let of = |(name, context): (&String, &ContextConfig)| {
        let at = |key: &str| source.at(&["context", name, key]);
        ensure!(
            !is_column_of_rows(name) && !config.input.extra.contains_key(name),
            "{}: context.{name}: rows have a column of this name already; choose another",
            source.at(&["context", name])
        );
        let value = context_value(context, config, || at("column"))?;
        let source = match context.of.as_str() {
            "" => ContextSource::Symbol(SymbolPattern::new(&context.symbol)),
            UNDERLYING => ContextSource::Underlying { venue: context.venue.to_uppercase() },
            column => {
                let column = text_column(column, reference, || at("of"))?;
                ContextSource::Named(column, NamedSymbols::new(reference.distinct_texts(column)))
            }
        };
        Ok((ContextRule { name: name.clone(), column: context.column.clone(), value }, source))
    };
    config.context.iter().map(of).collect()
}

fn context_value(context: &ContextConfig, config: &Config, at: impl Fn() -> String) -> Result<ContextValue> {
    let name = context.column.as_str();
    if name == "price" {
        return Ok(ContextValue::Price);
    }
    let input: Vec<&str> = column::NAMES.into_iter().chain(config.input.extra.keys().map(String::as_str)).collect();
    if let Some(position) = input.iter().position(|known| *known == name) {
        return Ok(ContextValue::Column(position));
    }
    ensure!(
        !config.context.contains_key(name),
        "{}: `{name}` is a context itself, expected price or a column of the input",
        at()
    );
    let near = nearest(name, input.iter().copied().chain(["price"]));
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    bail!("{}: the input has no column `{name}`, expected price or one of {}{near}", at(), input.join(", "))
}

/// The number of a text column of the reference data, which a key names that is `at` a position.
fn text_column(name: &str, reference: &Reference, at: impl Fn() -> String) -> Result<usize> {
    if let Some(column) = reference.text_columns().position(|known| known == name) {
        return Ok(column);
    }
    ensure!(
        !reference.is_empty(),
        "{}: `{name}` is a column of the reference data, but [reference] has no files",
        at()
    );
    ensure!(
        !reference.numeric_columns().any(|known| known == name),
        "{}: `{name}` is a column of numbers, expected one of texts; reference.texts = [\"{name}\"] makes it one",
        at()
    );
    let known: Vec<&str> = reference.text_columns().collect();
    let near = nearest(name, known.iter().copied());
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    bail!("{}: the reference data has no column `{name}`; its texts are {}{near}", at(), known.join(", "))
}
