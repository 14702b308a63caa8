//! What a new detector sees: the scope and the feed of `tickhound new`, and how the text of a template becomes one with them.
//!
//! What holds: a template without options is an example of this repository as it is. Otherwise its code is the same with other
//! words (`on_bar` for `on_tick`), and its cases have a tick in each span of the feed.

use std::{borrow::Cow, fmt, str::FromStr};

use anyhow::{Context, Result, ensure};

/// The scopes of a detector, the default first.
pub(crate) const SCOPES: [&str; 3] = ["symbol", "group", "market"];

/// The longest bars and steps of snapshots, in seconds, as in the host: a day.
const FEED_SECONDS_MAX: u32 = 86_400;

macro_rules! example {
    ($path:literal) => {
        include_str!(concat!("../../../../examples/detectors/", $path))
    };
}

/// The code of a detector whose states belong to groups, by the path of the file that it replaces.
const OF_GROUPS: [(&str, &str); 4] = [
    ("src/lib.rs", example!("group/lib.rs")),
    ("plugin.c", example!("group/plugin.c")),
    ("plugin.js", example!("group/plugin.js")),
    ("app.py", example!("group/app.py")),
];

/// The cases of a detector of bars or snapshots. Times between two `@` are in spans of the feed.
const OF_SPANS: [(&str, &str); 4] = [
    ("cases/apart.toml", example!("spans/apart.toml")),
    ("cases/fall.toml", example!("spans/fall.toml")),
    ("cases/quiet.toml", example!("spans/quiet.toml")),
    ("cases/rise.toml", example!("spans/rise.toml")),
];

/// The feed of a new detector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FeedChoice {
    #[default]
    Ticks,
    /// Bars of so many seconds.
    Bars(u32),
    /// Snapshots, one each so many seconds.
    Snapshots(u32),
}

/// The scope and the feed of a new detector.
#[derive(Clone, Debug)]
pub(crate) struct ProjectShape {
    /// One of [`SCOPES`].
    pub(crate) scope: String,
    pub(crate) feed: FeedChoice,
}

impl Default for ProjectShape {
    fn default() -> Self {
        Self { scope: SCOPES[0].to_owned(), feed: FeedChoice::Ticks }
    }
}

impl FromStr for FeedChoice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let explain = || format!("expected ticks, bars:SECONDS or snapshots:SECONDS, such as bars:60, not \"{text}\"");
        let (kind, seconds) = match text.split_once(':') {
            None if text == "ticks" => return Ok(Self::Ticks),
            None => (text, ""),
            Some(parts) => parts,
        };
        let seconds: u32 = seconds.parse().with_context(explain)?;
        ensure!((1..=FEED_SECONDS_MAX).contains(&seconds), "a feed is of 1 to {FEED_SECONDS_MAX} s, not {seconds}");
        match kind {
            "bars" => Ok(Self::Bars(seconds)),
            "snapshots" => Ok(Self::Snapshots(seconds)),
            _ => Err(anyhow::Error::msg(explain())),
        }
    }
}

impl fmt::Display for FeedChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ticks => write!(f, "ticks"),
            Self::Bars(seconds) => write!(f, "bars:{seconds}"),
            Self::Snapshots(seconds) => write!(f, "snapshots:{seconds}"),
        }
    }
}

impl ProjectShape {
    /// Returns the text of a template's file for this shape.
    ///
    /// # Errors
    /// When a template is not as expected, which a test rules out.
    pub(super) fn of_template(&self, path: &str, text: &'static str) -> Result<String> {
        if let (Some((_, case)), Some(seconds)) =
            (OF_SPANS.iter().find(|(known, _)| *known == path), self.feed.seconds())
        {
            return spanned(case, seconds);
        }
        let Some((_, of_groups)) = OF_GROUPS.iter().find(|(known, _)| *known == path) else {
            return Ok(if path == "README.md" { self.of_readme(text) } else { text.to_owned() });
        };
        let text = match self.scope.as_str() {
            "symbol" => Cow::Borrowed(text),
            "group" => Cow::Borrowed(*of_groups),
            _ => Cow::Owned(of_market(of_groups)),
        };
        self.feed.of_code(path, &text)
    }

    /// Returns the README with what the detector sees, and with the groups in its example of a configuration.
    fn of_readme(&self, text: &str) -> String {
        let thing = self.feed.thing();
        let text = text.replacen("when one tick moves", &format!("when one {thing} moves"), 1);
        if self.scope == "group" {
            text.replace(
                "plugin = \"jump\"\n",
                "plugin = \"jump\"\ngroups = [\"underlying\"]   # or families of [groups]\n",
            )
        } else {
            text
        }
    }
}

impl FeedChoice {
    /// The length of its spans, in seconds.
    fn seconds(self) -> Option<u32> {
        match self {
            Self::Ticks => None,
            Self::Bars(seconds) | Self::Snapshots(seconds) => Some(seconds),
        }
    }

    /// What one of its rows is called in code.
    fn thing(self) -> &'static str {
        match self {
            Self::Ticks => "tick",
            Self::Bars(_) => "bar",
            Self::Snapshots(_) => "snapshot",
        }
    }

    /// Returns the code of a detector of ticks as one of a detector of this feed.
    fn of_code(self, path: &str, text: &str) -> Result<String> {
        if self == Self::Ticks {
            return Ok(text.to_owned());
        }
        let text = with_words(text, self.thing());
        let (before, declared) = self.declaration(path);
        let (head, tail) = text.split_once(before).with_context(|| format!("{path} contains {before:?}"))?;
        let text = format!("{head}{declared}{before}{tail}");
        Ok(match path {
            "src/lib.rs" => self.of_rust(&text),
            "plugin.c" => text.replacen("    .params =", "    .feeds = feeds,\n    .params =", 1),
            "app.py" => sorted_names(&text, "from tickhound_sdk import ", "\n", ""),
            _ => text,
        })
    }

    /// What the code declares the feed with, after the text that follows it.
    fn declaration(self, path: &str) -> (&'static str, String) {
        match path {
            "src/lib.rs" => (".param(Param::", format!(".feed({})\n            ", self.in_rust())),
            "plugin.c" => (
                "static const tickhound_param params",
                format!("static const char *const feeds[] = {{\"{self}\", NULL}};\n\n"),
            ),
            "plugin.js" => ("  static params", format!("  static feeds = [\"{self}\"];\n")),
            _ => ("    move_pct: float", format!("    feeds = (\"{self}\",)\n")),
        }
    }

    fn in_rust(self) -> String {
        let kind = if matches!(self, Self::Bars(_)) { "bars" } else { "snapshots" };
        format!("Feed::{kind}({})", self.seconds().unwrap_or_default())
    }

    /// Returns the code with its names in order, and with the tests' rows: those of bars have four prices.
    fn of_rust(self, text: &str) -> String {
        let text = sorted_names(text, "use tickhound_sdk::{", "};", "Feed");
        if !matches!(self, Self::Bars(_)) {
            return text;
        }
        let lines = text.lines().map(|line| match line.split_once("bar(\"") {
            Some((indent, row)) if indent.trim().is_empty() => match row.split_once(')') {
                Some((row, rest)) => {
                    let (place, price) = row.rsplit_once(", ").unwrap_or((row, ""));
                    format!("{indent}bar(\"{place}, [{price}; 4]){rest}\n")
                }
                None => format!("{line}\n"),
            },
            _ => format!("{line}\n"),
        });
        lines.collect()
    }
}

/// Returns the code of a detector of groups as one of the detector of the market.
fn of_market(text: &str) -> String {
    let text = text.replace(".in_group(\"NIFTY\")", "");
    let text = text.replace("Scope::Group", "Scope::Market").replace("TICKHOUND_GROUP", "TICKHOUND_MARKET");
    let text = text.replace("scope = \"group\"", "scope = \"market\"").replace("a member of a group", "a symbol");
    let text = text.replace("one member of a group", "one symbol").replace("member of the group", "symbol");
    text.replace("about one group", "about the market").replace("price of a member", "price of a symbol")
}

/// Replaces the word `tick` by another, also as a part of `on_tick` and the like, but not of `tickhound`.
fn with_words(text: &str, thing: &str) -> String {
    let camel = thing[..1].to_uppercase() + &thing[1..];
    let words = [("on_tick", format!("on_{thing}")), ("onTick", format!("on{camel}"))];
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let (gap, word) = rest.split_at(at);
        let end = word.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(word.len());
        let (word, behind) = word.split_at(end);
        replaced += gap;
        replaced += match word {
            "tick" => thing,
            "Tick" => &camel,
            _ => words.iter().find(|(known, _)| *known == word).map_or(word, |(_, other)| other),
        };
        rest = behind;
    }
    replaced + rest
}

/// Sorts the names between `start` and `end`, and adds one to them unless it is empty.
fn sorted_names(text: &str, start: &str, end: &str, added: &str) -> String {
    let Some((head, (names, tail))) =
        text.split_once(start).and_then(|(head, rest)| Some((head, rest.split_once(end)?)))
    else {
        return text.to_owned();
    };
    let mut names: Vec<&str> = names.split(", ").chain([added]).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    format!("{head}{start}{}{end}{tail}", names.join(", "))
}

/// Returns a case whose times, which are in spans, are in seconds.
fn spanned(case: &str, seconds: u32) -> Result<String> {
    let mut text = String::new();
    for (index, part) in case.split('@').enumerate() {
        if index % 2 == 0 {
            text += part;
        } else {
            let spans: f64 = part.parse().with_context(|| format!("{part} is not a number"))?;
            // Tenths of a span, so that the digits are as short as possible.
            text += &format!("{:?}", (spans * 10.0).round() * f64::from(seconds) / 10.0);
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(scope: &str, feed: &str) -> ProjectShape {
        ProjectShape { scope: scope.to_owned(), feed: feed.parse().unwrap() }
    }

    #[test]
    fn a_feed_is_read_as_it_is_written_and_anything_else_is_rejected() {
        for text in ["ticks", "bars:60", "snapshots:86400"] {
            assert_eq!(text.parse::<FeedChoice>().unwrap().to_string(), text);
        }
        for wrong in ["", "bars", "bars:", "bars:0", "bars:86401", "bars:1.5", "ticks:1", "candles:60", "bars:-1"] {
            assert!(wrong.parse::<FeedChoice>().is_err(), "{wrong}");
        }
    }

    /// Each replacement finds what it replaces, in each language.
    #[test]
    fn the_code_is_of_the_scope_and_the_feed() {
        for (path, symbol, scope, feed) in [
            ("src/lib.rs", example!("rust/src/lib.rs"), ".scope(Scope::Market)", ".feed(Feed::bars(60))"),
            ("plugin.c", example!("c/plugin.c"), ".scope = TICKHOUND_MARKET", "feeds[] = {\"bars:60\", NULL};"),
            ("plugin.js", example!("js/plugin.js"), "static scope = \"market\"", "static feeds = [\"bars:60\"];"),
            ("app.py", example!("python/app.py"), "    scope = \"market\"", "    feeds = (\"bars:60\",)"),
        ] {
            assert_eq!(shape("symbol", "ticks").of_template(path, symbol).unwrap(), symbol);
            for scope in SCOPES {
                let text = shape(scope, "bars:60").of_template(path, symbol).unwrap();
                assert!(text.contains(feed), "{path}: {text}");
                let left =
                    ["on_tick", "onTick", "Tick", " tick"].map(|word| text.replace("tickhound", "").contains(word));
                assert_eq!(left, [false; 4], "{path}: {text}");
            }
            let text = shape("market", "snapshots:5").of_template(path, symbol).unwrap();
            assert!(text.contains(scope) && !text.contains("group"), "{path}: {text}");
            assert!(text.contains("snapshots:5") || text.contains("Feed::snapshots(5)"), "{path}: {text}");
        }
    }

    #[test]
    fn the_cases_of_a_feed_have_a_tick_in_each_span() {
        let text = shape("symbol", "bars:60").of_template("cases/rise.toml", "").unwrap();
        assert!(text.contains("NIFTY,6.0,100.0\nNIFTY,66.0,101.0\n") && text.contains("time = 120.0"), "{text}");
        let text = shape("symbol", "snapshots:1").of_template("cases/apart.toml", "").unwrap();
        assert!(text.contains("GOLD,1.2,118000\n") && !text.contains('@'), "{text}");
    }

    #[test]
    fn the_readme_says_what_the_detector_sees() {
        let readme = example!("rust/README.md");
        assert_eq!(shape("symbol", "ticks").of_template("README.md", readme).unwrap(), readme);
        let text = shape("group", "bars:60").of_template("README.md", readme).unwrap();
        assert!(text.contains("when one bar moves") && text.contains("groups = [\"underlying\"]"), "{text}");
    }
}
