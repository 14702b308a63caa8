//! The text of a configuration in which a shadow has taken the place of its live detector.
//!
//! What holds: the live detector's table has what the shadow sets, and keeps everything else with its comments: the same
//! rule by which a shadow inherits. Other tables stay as they are, byte for byte.

use anyhow::{Context, Result};
use toml_edit::{Document, DocumentMut, Item, Key, Table, TableLike, Value};

use tickhound_core::config::{Inheritance, NEXT_VERSION, inheritance};

/// The first character of a file that some editors write.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The key of a detector's parameters.
const PARAMS: &str = "params";

/// Whether some lines of the text end as on Windows and some as on Unix. [`promoted`] ends all of these as on Unix.
pub(super) fn has_mixed_line_ends(text: &str) -> bool {
    let windows = text.matches("\r\n").count();
    windows > 0 && windows < text.matches('\n').count()
}

/// Returns the text with the settings of the shadow in the table of the live detector, and without the shadow's table.
///
/// # Errors
/// When the file does not have both tables.
pub(super) fn promoted(text: &str, shadow: &str, live: &str) -> Result<String> {
    // The mark that some editors put in front is no part of the text; it stays.
    if let Some(text) = text.strip_prefix(BYTE_ORDER_MARK) {
        return Ok(format!("{BYTE_ORDER_MARK}{}", promoted(text, shadow, live)?));
    }
    // The crate writes the line ends of Unix; those of the file stay.
    if text.contains("\r\n") {
        let after = promoted(&text.replace("\r\n", "\n"), shadow, live)?;
        return Ok(if has_mixed_line_ends(text) { after } else { after.replace('\n', "\r\n") });
    }
    let mut own = text.parse::<DocumentMut>()?;
    let own = detectors(&mut own)?.remove(shadow).filter(Item::is_table_like);
    let own = own.with_context(|| format!("[detectors.{shadow}] is not in the file; edit it by hand"))?;
    let own = own.as_table_like().expect("it was filtered");
    let mut document: DocumentMut = without(text, shadow)?.parse()?;
    let detectors = detectors(&mut document)?;
    // Where it is no table of its own, its lines are still there.
    detectors.remove(shadow);
    let is_inline = detectors.get(live).is_some_and(Item::is_inline_table);
    let table = detectors.get_mut(live).and_then(Item::as_table_like_mut);
    let table = table.with_context(|| format!("[detectors.{live}] is not in the file; edit it by hand"))?;
    take_over(table, own, is_inline);
    Ok(document.to_string())
}

fn detectors(document: &mut DocumentMut) -> Result<&mut dyn TableLike> {
    let detectors = document.get_mut("detectors").and_then(Item::as_table_like_mut);
    detectors.context("the file has no [detectors] table; edit it by hand")
}

/// Sets in the live detector's table what the shadow's table sets.
fn take_over(table: &mut dyn TableLike, own: &dyn TableLike, is_inline: bool) {
    let text = |table: &dyn TableLike, key: &str| table.get(key).and_then(Item::as_str).map(str::to_owned);
    let (plugin, own_plugin) = (text(table, "plugin").unwrap_or_default(), text(own, "plugin"));
    for key in table.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>() {
        let is_kept = inheritance(&key, &plugin, own_plugin.as_deref()) != Inheritance::None;
        match table.get_mut(&key) {
            // They belong to the plugin that is replaced. The keys stay for their comments.
            Some(item) if key == PARAMS && !is_kept => item.as_table_like_mut().into_iter().for_each(TableLike::clear),
            Some(Item::Value(value)) if key == "sha256" && !is_kept => replace_value(value, "".into()),
            // A shadow that runs takes the place of a detector that may not.
            Some(Item::Value(value)) if key == "enabled" && own.get(&key).and_then(Item::as_bool) != Some(false) => {
                replace_value(value, true.into());
            }
            _ => {}
        }
    }
    for (key, item) in own.iter() {
        let is_next = key == "plugin" && own_plugin.as_deref() == Some(&format!("{plugin}{NEXT_VERSION}"));
        if is_next || ["enabled", "shadow_of"].contains(&key) {
            continue;
        }
        let name = own.key(key).cloned().unwrap_or_else(|| Key::new(key));
        let is_inline_inside = is_inline || table.get(key).is_some_and(Item::is_inline_table);
        match (table.get_mut(key).and_then(Item::as_table_like_mut), item.as_table_like()) {
            (Some(entries), Some(own)) if key == PARAMS => {
                for (entry, item) in own.iter() {
                    let name = own.key(entry).cloned().unwrap_or_else(|| Key::new(entry));
                    set(entries, &name, item, is_inline_inside);
                }
            }
            _ => set(table, &name, item, is_inline),
        }
    }
}

/// Sets a key. The comments of the live detector's line stay, unless the shadow's line has its own.
fn set(table: &mut dyn TableLike, key: &Key, item: &Item, is_inline: bool) {
    if let (Some(Item::Value(old)), Item::Value(new)) = (table.get_mut(key), item) {
        let mut new = new.clone();
        let comment = new.decor().suffix().and_then(|suffix| suffix.as_str()).filter(|suffix| suffix.contains('#'));
        let comment = comment.filter(|_| !is_inline).map(str::to_owned);
        *new.decor_mut() = old.decor().clone();
        if let Some(comment) = comment {
            new.decor_mut().set_suffix(comment);
        }
        *old = new;
        if let Some(mut name) = table.key_mut(key) {
            let comments = prefix(key);
            let all =
                format!("{}{comments}", name.leaf_decor().prefix().and_then(|own| own.as_str()).unwrap_or_default());
            if comments.contains('#') && !is_inline {
                name.leaf_decor_mut().set_prefix(all);
            }
        }
        return;
    }
    let mut item = item.clone();
    match &mut item {
        Item::Value(value) if is_inline => value.decor_mut().clear(),
        // Next to the table that it is a part of, wherever it was before.
        Item::Table(inner) if !inner.is_dotted() => {
            inner.set_position(None);
            inner.decor_mut().set_prefix("\n");
        }
        _ => {}
    }
    table.insert(key, item);
    if let Some(mut name) = table.key_mut(key).filter(|_| !is_inline) {
        name.leaf_decor_mut().set_prefix(prefix(key).trim_start_matches('\n'));
    }
}

/// The blank lines and comments above a key.
fn prefix(key: &Key) -> &str {
    key.leaf_decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default()
}

fn replace_value(old: &mut Value, mut new: Value) {
    *new.decor_mut() = old.decor().clone();
    *old = new;
}

/// Returns the text without the tables of the shadow, and without the comments that belong to them: those directly above
/// its first header, and those within and directly below its lines.
fn without(text: &str, shadow: &str) -> Result<String> {
    let document = Document::parse(text)?;
    let mut headers = Vec::new();
    collect_headers(document.as_table(), &mut Vec::new(), &mut headers);
    headers.sort_unstable();
    let is_shadows = |path: &[&str]| matches!(path, ["detectors", name, ..] if *name == shadow);
    let mut left = String::new();
    let mut end_of_kept = 0;
    for (number, (start, path)) in headers.iter().enumerate() {
        if !is_shadows(path) {
            continue;
        }
        let begin = if number == 0 { 0 } else { headers[number - 1].0 };
        let follows_own = number > 0 && is_shadows(&headers[number - 1].1);
        if !follows_own {
            left.push_str(&text[end_of_kept..begin + start_of_comments(&text[begin..*start])]);
        }
        let next = headers.get(number + 1).map_or(text.len(), |(next, _)| *next);
        end_of_kept = if headers.get(number + 1).is_some_and(|(_, path)| is_shadows(path)) {
            next
        } else {
            start + end_of_body(&text[*start..next])
        };
    }
    left.push_str(&text[end_of_kept..]);
    // Nothing follows that a blank line would part.
    if end_of_kept == text.len() {
        left.truncate(left.trim_end().len());
        left.push('\n');
    }
    Ok(left)
}

/// Collects where each header in the text begins, with the path that it names.
fn collect_headers<'a>(table: &'a Table, path: &mut Vec<&'a str>, headers: &mut Vec<(usize, Vec<&'a str>)>) {
    let mut collect = |table: &'a Table, path: &mut Vec<&'a str>| {
        if let Some(span) = table.span().filter(|_| !table.is_dotted() && !table.is_implicit()) {
            headers.push((span.start, path.clone()));
        }
        collect_headers(table, path, headers);
    };
    for (key, item) in table {
        path.push(key);
        match item {
            Item::Table(inner) => collect(inner, path),
            Item::ArrayOfTables(tables) => tables.iter().for_each(|inner| collect(inner, path)),
            _ => {}
        }
        path.pop();
    }
}

/// Where the comments directly above the end of `text` begin.
fn start_of_comments(text: &str) -> usize {
    let mut start = text.len();
    for line in text.split_inclusive('\n').rev() {
        if !line.trim_start().starts_with('#') {
            break;
        }
        start -= line.len();
    }
    start
}

/// Where the last key of a table ends, with the comments directly below it; `text` begins with the table's header and ends
/// before the next one.
fn end_of_body(text: &str) -> usize {
    let is_blank = |line: &str| line.trim().is_empty();
    let is_comment = |line: &str| line.trim_start().starts_with('#');
    let mut end_of_keys = 0;
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        end += line.len();
        if !is_blank(line) && !is_comment(line) {
            end_of_keys = end;
        }
    }
    let comments = text[end_of_keys..].split_inclusive('\n').take_while(|line| is_comment(line)).map(str::len);
    let end = end_of_keys + comments.sum::<usize>();
    // One blank line parted it from the next table; the one above it still does.
    let blank = text[end..].split_inclusive('\n').next().filter(|line| is_blank(line)).map_or(0, str::len);
    end + blank
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# The desk's own.
[engine]
workers = 2

# Agreed with the desk on Monday.
[detectors.breakout]
plugin = \"breakout\"               # plugins/breakout.wasm
sha256 = \"00\"                     # the digest
enabled = false
# Options only.
symbols = [\"NIFTY*\"]              # not SENSEX
min_confidence = 0.8              # less is noise
cooldown_s = 60

[detectors.breakout.params]       # see `tickhound check`
window_s = 200
# n = 12

# bolder for a while
[detectors.bolder]
shadow_of = \"breakout\"
min_confidence = 0.3
cooldown_s = 30 # half of it
# Two a second.
max_alerts_per_minute = 120

# of bolder
[detectors.bolder.params]
n = 9
# window_s = 100

# The others.

[detectors.momentum]
plugin = \"momentum\"
";

    fn lines(text: &str) -> Vec<&str> {
        text.lines().collect()
    }

    /// `symbols` and `cooldown_s` were removed with their comments, since the shadow did not set them.
    #[test]
    fn the_live_detector_keeps_what_the_shadow_does_not_set() {
        let expected = "\
# The desk's own.
[engine]
workers = 2

# Agreed with the desk on Monday.
[detectors.breakout]
plugin = \"breakout\"               # plugins/breakout.wasm
sha256 = \"00\"                     # the digest
enabled = true
# Options only.
symbols = [\"NIFTY*\"]              # not SENSEX
min_confidence = 0.3              # less is noise
cooldown_s = 30 # half of it
# Two a second.
max_alerts_per_minute = 120

[detectors.breakout.params]       # see `tickhound check`
window_s = 200
n = 9
# n = 12

# The others.

[detectors.momentum]
plugin = \"momentum\"
";
        assert_eq!(lines(&promoted(FILE, "bolder", "breakout").unwrap()), lines(expected));
    }

    #[test]
    fn another_plugin_takes_neither_digest_nor_parameters() {
        let file = FILE.replace("shadow_of = \"breakout\"\n", "shadow_of = \"breakout\"\nplugin = \"bold\"\n");
        let after = promoted(&file, "bolder", "breakout").unwrap();
        for kept in [
            "plugin = \"bold\"               # plugins/breakout.wasm",
            "sha256 = \"\"                     # the digest",
        ] {
            assert!(after.contains(kept), "{after}");
        }
        assert!(!after.contains("window_s = 200") && after.contains("n = 9\n"), "{after}");
    }

    #[test]
    fn a_next_version_leaves_the_name_of_the_plugin() {
        let file = FILE.replace("shadow_of = \"breakout\"\n", "shadow_of = \"breakout\"\nplugin = \"breakout.next\"\n");
        let after = promoted(&file, "bolder", "breakout").unwrap();
        assert!(after.contains("plugin = \"breakout\"") && !after.contains("next"), "{after}");
        assert!(after.contains("window_s = 200") && after.contains("sha256 = \"\""), "{after}");
    }

    #[test]
    fn every_way_to_write_a_table_is_understood() {
        let live = "[detectors.a]\nplugin = \"p\"\ncooldown_s = 5 # five\n";
        let inline = "[detectors]\na = { plugin = \"p\", cooldown_s = 5 }\n";
        let dotted = "[detectors]\na.plugin = \"p\"\na.cooldown_s = 5\n";
        let shadows = [
            "[detectors.s] # why\nshadow_of = \"a\"\nparams = { n = 1 }\nmin_confidence = 0.9 # more\n",
            "[detectors.s]\nshadow_of = \"a\"\nmin_confidence = 0.9\nparams.n = 1\n",
            "[detectors.s.params]\nn = 1\n[detectors.s]\nshadow_of = \"a\"\nmin_confidence = 0.9\n",
        ];
        let within = [
            "s = { shadow_of = \"a\", min_confidence = 0.9, params = { n = 1 } }\n",
            "s.shadow_of = \"a\"\ns.min_confidence = 0.9\ns.params.n = 1\n",
        ];
        let mut files: Vec<String> = shadows.iter().map(|shadow| format!("{shadow}{live}")).collect();
        files.extend(shadows.iter().map(|shadow| format!("{live}{shadow}")));
        files.extend(
            [inline, dotted].iter().flat_map(|live| within.iter().map(move |shadow| format!("{live}{shadow}"))),
        );
        let expected: toml::Table =
            "[detectors.a]\nplugin = \"p\"\ncooldown_s = 5\nmin_confidence = 0.9\nparams = { n = 1 }".parse().unwrap();
        for file in files {
            let after = promoted(&file, "s", "a").unwrap();
            assert_eq!(after.parse::<toml::Table>().unwrap(), expected, "{file}\n{after}");
        }
    }

    #[test]
    fn line_ends_stay_as_they_are() {
        let windows = promoted(&FILE.replace('\n', "\r\n"), "bolder", "breakout").unwrap();
        let unix = promoted(FILE, "bolder", "breakout").unwrap();
        assert_eq!(windows, unix.replace('\n', "\r\n"));
        let marked = promoted(&format!("\u{feff}{FILE}").replace('\n', "\r\n"), "bolder", "breakout").unwrap();
        assert_eq!(marked, format!("\u{feff}{windows}"));
        let mixed = FILE.replacen('\n', "\r\n", 3);
        assert!(has_mixed_line_ends(&mixed) && ![FILE, &windows].iter().any(|text| has_mixed_line_ends(text)));
        assert_eq!(promoted(&mixed, "bolder", "breakout").unwrap(), unix);
    }

    #[test]
    fn the_last_table_leaves_no_blank_lines() {
        let file = "[detectors.a]\nplugin = \"p\"\n\n# why\n[detectors.s]\nshadow_of = \"a\"\ncooldown_s = 1\n";
        assert_eq!(promoted(file, "s", "a").unwrap(), "[detectors.a]\nplugin = \"p\"\ncooldown_s = 1\n");
    }

    #[test]
    fn what_is_not_in_the_file_is_left_to_the_user() {
        let said = |shadow, live| format!("{:#}", promoted(FILE, shadow, live).unwrap_err());
        assert!(said("nobody", "breakout").contains("[detectors.nobody] is not in the file"));
        assert!(said("bolder", "nobody").contains("[detectors.nobody] is not in the file"));
    }
}
