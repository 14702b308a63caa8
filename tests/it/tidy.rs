//! What the compiler does not check of the source: every log call names an event, and the documents list each one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::support::shipped;

/// The macros that write to the log.
const LOG_MACROS: [&str; 5] = ["error!(", "warn!(", "info!(", "debug!(", "trace!("];

/// How the log's own threads make a line: level and event are its first two literals.
const LOG_LINE: &str = "in_form_of(";

/// Ways to write to stdout and stderr.
const PRINTING: [&str; 8] =
    ["println!(", "print!(", "eprintln!(", "eprint!(", "dbg!(", "stdout()", "stderr()", "set_hook("];

/// The files that may use some of them, with the reason.
const PRINTERS: [(&str, &[&str], &str); 7] = [
    ("src/output.rs", &["stdout()", "stderr()", "set_hook("], "it makes what it prints printable"),
    ("src/authoring/kit/project.rs", &["stderr()"], "a compiler that the user runs inherits it"),
    ("src/cli/process.rs", &["stdout()"], "it waits until the reader closes it"),
    ("src/cli/top.rs", &["stdout()"], "it draws a screen, whose cells are printable"),
    ("crates/engine/src/plugin/check_child.rs", &["stdout()"], "it answers in JSON to the process that started it"),
    ("src/service/log_queue.rs", &["stdout()"], "lines of the log, which its formatter has made printable"),
    ("src/service/supervisor.rs", &["stdout()"], "messages to the process that started this one"),
];

/// An event with its level, as in `("lease_acquired", "INFO")`.
pub type Event = (String, String);

#[test]
fn every_log_call_begins_with_its_event() {
    let mut calls = 0;
    let mut without = Vec::new();
    for call in log_calls() {
        calls += 1;
        if call.event().is_none() {
            without.push(call.place);
        }
    }
    assert!(calls > 100, "the scan found {calls} log calls");
    assert!(without.is_empty(), "log calls without `event = \"snake_case\"` as their first field: {without:#?}");
}

#[test]
fn the_documents_list_each_event_with_its_level() {
    let logged: BTreeSet<Event> = log_calls().iter().filter_map(LogCall::event).chain(lines_about_the_log()).collect();
    let documented = documented_events();
    let missing: Vec<&Event> = logged.difference(&documented).collect();
    let gone: Vec<&Event> = documented.difference(&logged).collect();
    assert!(missing.is_empty() && gone.is_empty(), "docs/logs.md: missing {missing:#?}, not logged {gone:#?}");
}

#[test]
fn what_is_printed_passes_through_the_module_that_makes_it_printable() {
    let mut around = Vec::new();
    for (file, text) in sources(&["src", "crates"]) {
        for printing in PRINTING {
            let uses = text.match_indices(printing).filter(|(at, _)| is_code(&text, *at));
            let uses =
                uses.filter(|(at, _)| !text[*at..].lines().next().unwrap_or_default().contains(").is_terminal()"));
            let is_known = PRINTERS.iter().any(|(known, what, _)| file == Path::new(known) && what.contains(&printing));
            around.extend(
                uses.filter(|_| !is_known)
                    .map(|(at, _)| format!("{}:{} uses {printing}", file.display(), text[..at].lines().count())),
            );
        }
    }
    assert!(around.is_empty(), "print with outln!, errln! or another function of src/output.rs: {around:#?}");
}

/// Such a macro prints one line. A line break in its text would appear as `\n`, as if a stranger had written it.
#[test]
fn no_line_is_printed_with_a_line_break_in_its_text() {
    let mut broken = Vec::new();
    let mut calls = 0;
    for (file, text) in sources(&["src", "crates"]) {
        for printing in ["outln!(", "errln!("] {
            for (at, _) in text.match_indices(printing).filter(|(at, _)| is_code(&text, *at)) {
                calls += 1;
                let call = text[at..].split(");\n").next().unwrap_or_default();
                if call.contains(r"\n") {
                    broken.push(format!("{}:{}", file.display(), text[..at].lines().count()));
                }
            }
        }
    }
    assert!(calls > 50, "the scan found {calls} calls");
    assert!(broken.is_empty(), "call outln! once for each line: {broken:#?}");
}

/// One use of a log macro.
struct LogCall {
    /// `file:line`.
    place: String,
    level: String,
    /// The source behind the opening parenthesis.
    arguments: String,
}

impl LogCall {
    fn event(&self) -> Option<Event> {
        let fields = match self.arguments.strip_prefix("target: ") {
            Some(targeted) => targeted.split_once(',')?.1.trim_start(),
            None => &self.arguments,
        };
        let event = fields.strip_prefix("event = \"")?.split('"').next()?;
        is_snake_case(event).then(|| (event.to_owned(), self.level.clone()))
    }
}

fn log_calls() -> Vec<LogCall> {
    let mut calls = Vec::new();
    for (file, text) in sources(&["src", "crates"]) {
        for name in LOG_MACROS {
            let uses = text.match_indices(name).filter(|(at, _)| is_code(&text, *at));
            calls.extend(uses.map(|(at, _)| LogCall {
                place: format!("{}:{}", file.display(), text[..at].lines().count()),
                level: name.trim_end_matches("!(").to_uppercase(),
                arguments: text[at + name.len()..].trim_start().to_owned(),
            }));
        }
    }
    calls
}

/// Whether a name begins at `at`, outside of comments.
fn is_code(text: &str, at: usize) -> bool {
    let before = &text[..at];
    let line = before.rsplit('\n').next().unwrap_or_default();
    !line.contains("//") && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Lines that the log writes about itself, past the macros.
fn lines_about_the_log() -> BTreeSet<Event> {
    let mut events = BTreeSet::new();
    for (_, text) in sources(&["src", "crates"]) {
        for line in text.lines().filter_map(|line| line.split_once(LOG_LINE)) {
            let mut literals = line.1.split('"').skip(1).step_by(2);
            if let (Some(level), Some(event)) = (literals.next(), literals.next()) {
                events.insert((event.to_owned(), level.to_owned()));
            }
        }
    }
    events
}

/// The rows of docs/logs.md: `` | `event` | LEVEL | when | what to do | ``.
pub fn documented_events() -> BTreeSet<Event> {
    let table = fs::read_to_string(shipped("docs/logs.md")).unwrap();
    let rows: Vec<Event> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(event, rest)| (event.to_owned(), rest.split(" |").next().unwrap_or_default().to_owned()))
        .collect();
    let events: BTreeSet<Event> = rows.iter().cloned().collect();
    assert_eq!(events.len(), rows.len(), "docs/logs.md lists an event twice");
    events
}

fn is_snake_case(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Every Rust file under these folders, its path within the repository, with its text.
pub fn sources(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(shipped("").join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if shipped("").join(&path).is_dir() {
                open.push(path);
            } else if path.extension() == Some("rs".as_ref()) {
                let text = fs::read_to_string(shipped("").join(&path)).unwrap();
                files.push((path, text));
            }
        }
    }
    files
}
