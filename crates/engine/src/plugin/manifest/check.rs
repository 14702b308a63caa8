//! Checks a manifest, which a stranger may have written: how much is in it, and which texts.
//!
//! What holds: names are identifiers, and all other texts are short and can be printed. So they can be keys of the
//! configuration and fields of an alert, and no terminal obeys them.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::{Column, DeclaredColumn, DeclaredFeed, Length, Manifest, Param, Wake};
use crate::plugin::{
    columns::DAYS_TO_EXPIRY,
    texts::{is_identifier, is_printable, shown},
    value::Value,
};
use tickhound_core::{
    event::column,
    market::{
        bars::{self, SECONDS_MAX},
        computed::LENGTH_MAX,
    },
    session,
};

/// The maximum length of a name or a version, bytes. Each alert repeats those of the plugin.
const NAME_MAX: usize = 64;

/// The maximum length of a unit, bytes: a word or two.
const UNIT_MAX: usize = 32;

/// The maximum length of a sentence for users, bytes: five lines of a terminal.
const SENTENCE_MAX: usize = 512;

/// The maximum length of the default of a text parameter, bytes.
const DEFAULT_TEXT_MAX: usize = 1024;

/// The maximum number of columns. There are eight standard ones, and a feed has a few dozen fields.
const COLUMNS_MAX: usize = 64;

/// The maximum number of feeds. A detector of several time frames has three.
const FEEDS_MAX: usize = 4;

/// The maximum number of computed columns. A channel on each of several time frames needs a dozen.
const COMPUTED_MAX: usize = 32;

/// The maximum number of conditions under which ticks reach a detector. Each is tried at each tick.
const WAKES_MAX: usize = 16;

/// The maximum number of texts of the reference data.
const TEXTS_MAX: usize = 32;

/// The maximum number of parameters. The detectors that ship have up to twenty.
const PARAMS_MAX: usize = 128;

/// The maximum number of valid texts of a parameter.
const CHOICES_MAX: usize = 64;

/// Checks the texts of a manifest, and how many there are.
///
/// # Errors
/// Names the first text that breaks a limit, and the limit.
pub(crate) fn check(manifest: &Manifest) -> Result<()> {
    ensure!(!manifest.name.is_empty(), "the manifest has no name");
    check_identifier("the name", &manifest.name)?;
    ensure!(!manifest.version.is_empty(), "the manifest has no version");
    // A semantic version may have `+` and a build behind it.
    check_identifier("the version", &manifest.version.replacen('+', ".", 1))?;
    check_text("the description", &manifest.description, SENTENCE_MAX)?;
    check_count("columns", manifest.columns.len(), COLUMNS_MAX)?;
    check_count("computed columns", manifest.computed.len(), COMPUTED_MAX)?;
    let computed = manifest.computed.iter().map(|column| column.name.as_str());
    check_names("column", names(&manifest.columns).chain(computed))?;
    check_count("texts", manifest.texts.len(), TEXTS_MAX)?;
    check_names("text", names(&manifest.texts))?;
    check_count("parameters", manifest.params.len(), PARAMS_MAX)?;
    check_names("parameter", manifest.params.iter().map(|param| param.name.as_str()))?;
    manifest.params.iter().try_for_each(check_param)?;
    check_feeds(manifest)?;
    manifest.computed.iter().try_for_each(|column| check_computed(manifest, column))?;
    check_wakes(manifest)
}

fn check_feeds(manifest: &Manifest) -> Result<()> {
    ensure!(!manifest.feeds.is_empty(), "the manifest has no feed");
    check_count("feeds", manifest.feeds.len(), FEEDS_MAX)?;
    for (number, feed) in manifest.feeds.iter().enumerate() {
        check_feed(manifest, feed)?;
        ensure!(!manifest.feeds[..number].contains(feed), "feed {} is declared twice", number + 1);
    }
    Ok(())
}

fn check_feed(manifest: &Manifest, feed: &DeclaredFeed) -> Result<()> {
    match feed {
        DeclaredFeed::Ticks => Ok(()),
        DeclaredFeed::Bars(length) => check_length(manifest, "the length of bars", length, SECONDS_MAX),
        DeclaredFeed::Snapshots(length) => check_length(manifest, "the distance of snapshots", length, SECONDS_MAX),
    }
}

/// Checks a length as far as it is known. Its parameter may have any value within its limits.
fn check_length(manifest: &Manifest, what: &str, length: &Length, most: u32) -> Result<()> {
    let name = match length {
        Length::Fixed(length) => {
            ensure!((1..=most).contains(length), "{what} is {length}, expected 1 to {most}");
            return Ok(());
        }
        Length::Param(name) => name,
    };
    let param = manifest.params.iter().find(|param| param.name == *name);
    ensure!(
        param.is_some_and(|param| matches!(param.default, Value::Integer(_))),
        "{what} is that of parameter `{}`, but no integer parameter has that name",
        shown(name)
    );
    Ok(())
}

fn check_computed(manifest: &Manifest, computed: &DeclaredColumn) -> Result<()> {
    let DeclaredColumn { name, of, feed, length, .. } = computed;
    let standard = column::NAMES.iter().chain(&session::COLUMNS).chain(&bars::COLUMNS);
    let is_taken = standard.chain(&[DAYS_TO_EXPIRY, "price"]).any(|standard| standard == name);
    ensure!(!is_taken, "computed column `{name}` has the name of a standard column");
    let values: &[&str] = match feed {
        DeclaredFeed::Ticks => &["price"],
        DeclaredFeed::Bars(_) => &["price", "high", "low"],
        DeclaredFeed::Snapshots(_) => anyhow::bail!("computed column `{name}` is of snapshots, expected ticks or bars"),
    };
    ensure!(
        values.contains(&of.as_str()),
        "computed column `{name}` is of `{}`, expected {}",
        shown(of),
        values.join(" or ")
    );
    check_feed(manifest, feed)?;
    check_length(manifest, &format!("the length of computed column `{name}`"), length, LENGTH_MAX)
}

fn check_wakes(manifest: &Manifest) -> Result<()> {
    check_count("wakes", manifest.wakes.len(), WAKES_MAX)?;
    let has_ticks = manifest.feeds.contains(&DeclaredFeed::Ticks);
    ensure!(has_ticks || manifest.wakes.is_empty(), "the manifest has wakes, but ticks are not among its feeds");
    for Wake::Above(name) | Wake::Below(name) in &manifest.wakes {
        let mut all = names(&manifest.columns).chain(manifest.computed.iter().map(|column| column.name.as_str()));
        ensure!(all.any(|column| column == name), "a wake is about `{}`, which is none of its columns", shown(name));
    }
    Ok(())
}

fn names(columns: &[Column]) -> impl Iterator<Item = &str> {
    columns.iter().map(|column| column.name.as_str())
}

fn check_param(param: &Param) -> Result<()> {
    let name = &param.name;
    check_text(&format!("the unit of parameter `{name}`"), &param.unit, UNIT_MAX)?;
    check_text(&format!("the doc of parameter `{name}`"), &param.doc, SENTENCE_MAX)?;
    check_count(&format!("choices of parameter `{name}`"), param.choices.len(), CHOICES_MAX)?;
    for choice in &param.choices {
        check_text(&format!("a choice of parameter `{name}`"), choice, NAME_MAX)?;
    }
    match &param.default {
        Value::Text(text) => check_text(&format!("the default of parameter `{name}`"), text, DEFAULT_TEXT_MAX),
        Value::Flag(_) | Value::Integer(_) | Value::Number(_) => Ok(()),
    }
}

fn check_names<'a>(kind: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        check_identifier(&format!("the name of a {kind}"), name)?;
        ensure!(seen.insert(name), "{kind} `{name}` is declared twice");
    }
    Ok(())
}

fn check_identifier(what: &str, text: &str) -> Result<()> {
    ensure!(
        is_identifier(text) && text.len() <= NAME_MAX,
        "{what} is `{}`, expected up to {NAME_MAX} letters, digits, -, _ and .",
        shown(text)
    );
    Ok(())
}

fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<()> {
    ensure!(text.len() <= bytes_max, "{what} has {} bytes, expected at most {bytes_max}", text.len());
    ensure!(is_printable(text), "{what} has characters that can't be printed: `{}`", shown(text));
    Ok(())
}

fn check_count(what: &str, count: usize, most: usize) -> Result<()> {
    ensure!(count <= most, "the manifest has {count} {what}, expected at most {most}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{manifest::ColumnFunction, view::Scope};

    fn param(name: &str) -> Param {
        Param {
            name: name.into(),
            default: Value::Text("on".into()),
            minimum: None,
            maximum: None,
            choices: vec!["on".into(), "off".into()],
            unit: "σ".into(),
            doc: "What it does – in one sentence.".into(),
        }
    }

    fn integer(name: &str) -> Param {
        Param { default: Value::Integer(60), choices: Vec::new(), ..param(name) }
    }

    fn channel_high() -> DeclaredColumn {
        DeclaredColumn {
            name: "channel_high".into(),
            function: ColumnFunction::Highest,
            of: "high".into(),
            feed: DeclaredFeed::Bars(Length::Fixed(60)),
            length: Length::Fixed(20),
        }
    }

    fn manifest() -> Manifest {
        Manifest {
            name: "a-detector_2".into(),
            version: "1.2.0-rc.1+build.5".into(),
            description: "Détecte un écart ≥ 2 σ.".into(),
            scope: Scope::Group,
            feeds: vec![DeclaredFeed::Ticks, DeclaredFeed::Bars(Length::Param("bar_s".into()))],
            columns: vec![Column { name: "bid".into(), required: true }],
            computed: vec![channel_high()],
            wakes: vec![Wake::Above("channel_high".into()), Wake::Below("bid".into())],
            texts: vec![Column { name: "underlying".into(), required: false }],
            params: vec![param("mode"), param("half.life"), integer("bar_s")],
            state_version: 1,
            state_outlives_params: false,
            wants_clock: false,
        }
    }

    /// Changes a sound manifest, and expects this error.
    fn rejected(expected: &str, change: impl Fn(&mut Manifest)) {
        let mut manifest = manifest();
        change(&mut manifest);
        let error = check(&manifest).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(is_printable(&error) && error.len() < 300, "{error}");
    }

    #[test]
    fn a_sound_manifest_is_accepted() {
        check(&manifest()).unwrap();
    }

    #[test]
    fn names_are_identifiers() {
        let escape = "a\u{1b}[2J";
        rejected("the manifest has no name", |manifest| manifest.name.clear());
        rejected(r"the name is `a\u{1b}[2J`, expected up to 64 letters", |manifest| manifest.name = escape.into());
        rejected("expected up to 64 letters", |manifest| manifest.name = "n".repeat(100_000));
        rejected("the version is `1.0 beta`", |manifest| manifest.version = "1.0 beta".into());
        rejected("the name of a column is ``", |manifest| manifest.columns[0].name.clear());
        rejected("the name of a parameter is `a=b`", |manifest| manifest.params[0].name = "a=b".into());
        rejected("parameter `mode` is declared twice", |manifest| manifest.params[1].name = "mode".into());
    }

    #[test]
    fn texts_are_short_and_can_be_printed() {
        rejected("the description has characters that can't be printed: `ok\\nDETECTED`", |manifest| {
            manifest.description = "ok\nDETECTED".into();
        });
        rejected("the description has 513 bytes, expected at most 512", |manifest| {
            manifest.description = "d".repeat(513);
        });
        rejected("the unit of parameter `mode` has characters", |manifest| {
            manifest.params[0].unit = "\u{202e}s".into();
        });
        rejected("the doc of parameter `half.life` has 1000000 bytes", |manifest| {
            manifest.params[1].doc = "d".repeat(1_000_000);
        });
        rejected("a choice of parameter `mode` has characters", |manifest| {
            manifest.params[0].choices.push("\u{200b}on".into());
        });
        rejected("the default of parameter `mode` has 1025 bytes", |manifest| {
            manifest.params[0].default = Value::Text("t".repeat(1025));
        });
    }

    #[test]
    fn there_are_only_so_many_of_each() {
        rejected("the manifest has 65 columns, expected at most 64", |manifest| {
            manifest.columns = vec![manifest.columns[0].clone(); 65];
        });
        rejected("the manifest has 129 parameters", |manifest| manifest.params = vec![param("mode"); 129]);
        rejected("the manifest has 66 choices of parameter `mode`", |manifest| {
            manifest.params[0].choices.extend(vec!["on".to_owned(); 64]);
        });
    }

    #[test]
    fn feeds_are_few_and_differ_and_have_lengths() {
        let feeds = |feeds: &[DeclaredFeed]| {
            let feeds = feeds.to_vec();
            move |manifest: &mut Manifest| manifest.feeds = feeds.clone()
        };
        let bars = |seconds| DeclaredFeed::Bars(Length::Fixed(seconds));
        rejected("the manifest has no feed", feeds(&[]));
        rejected("the manifest has 5 feeds, expected at most 4", feeds(&[1, 2, 3, 4, 5].map(bars)));
        rejected("feed 2 is declared twice", feeds(&[bars(60), bars(60)]));
        rejected("the length of bars is 0, expected 1 to 86400", feeds(&[bars(0)]));
        rejected("the length of bars is 86401", feeds(&[bars(86_401)]));
        let of_param = |name: &str| DeclaredFeed::Snapshots(Length::Param(name.to_owned()));
        rejected("the distance of snapshots is that of parameter `mode`, but no integer", feeds(&[of_param("mode")]));
        rejected(r"parameter `a\u{1b}b`, but no integer", feeds(&[of_param("a\u{1b}b")]));
    }

    #[test]
    fn computed_columns_and_wakes_name_what_there_is() {
        let computed =
            |change: fn(&mut DeclaredColumn)| move |manifest: &mut Manifest| change(&mut manifest.computed[0]);
        rejected("column `bid` is declared twice", computed(|column| column.name = "bid".into()));
        rejected("the name of a column is `a b`", computed(|column| column.name = "a b".into()));
        rejected(
            "computed column `oi` has the name of a standard column",
            computed(|column| column.name = "oi".into()),
        );
        rejected("`vwap` has the name of a standard", computed(|column| column.name = "vwap".into()));
        rejected("is of `bid`, expected price or high or low", computed(|column| column.of = "bid".into()));
        rejected("is of `high`, expected price", computed(|column| column.feed = DeclaredFeed::Ticks));
        rejected(
            "is of snapshots, expected ticks or bars",
            computed(|column| {
                column.feed = DeclaredFeed::Snapshots(Length::Fixed(1));
            }),
        );
        rejected("is 10001, expected 1 to 10000", computed(|column| column.length = Length::Fixed(10_001)));
        rejected("33 computed columns, expected at most 32", |manifest| manifest.computed = vec![channel_high(); 33]);
        rejected("a wake is about `ask`, which is none of its columns", |manifest| {
            manifest.wakes.push(Wake::Above("ask".into()));
        });
        rejected("the manifest has 17 wakes", |manifest| manifest.wakes = vec![Wake::Above("bid".into()); 17]);
        rejected("ticks are not among its feeds", |manifest| {
            manifest.feeds.remove(0);
        });
        rejected("text `underlying` is declared twice", |manifest| manifest.texts = vec![manifest.texts[0].clone(); 2]);
    }
}
