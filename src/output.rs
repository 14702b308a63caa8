//! What the program prints: lines on stdout and stderr, and JSON.
//!
//! What holds:
//! - One `outln!`, `errln!` or `writeln!` to [`Lines`] is one line, whatever it shows: line breaks, control characters and
//!   invisible characters in it become escapes. So a symbol, a plugin or a consumer's name can't forge a line or drive a
//!   terminal.
//! - A reader that closes the output early, as `| head` does, is not an error: what follows is dropped, and the command
//!   ends as it would have ended. A full disk is an error, which [`finish`] returns at the end.
//! - [`has_colors`] alone decides on colours, for everything: the log, help, the diff and `top`. Progress bars have none, and
//!   appear only on a terminal that is not `dumb`.
//! - Nothing else in this program prints. `tests/it/tidy.rs` checks that, and lists the exceptions.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    ffi::OsString,
    fmt,
    io::{self, IsTerminal, Write as _},
    sync::{Mutex, PoisonError},
};

use similar::{ChangeTag, TextDiff};

use tickhound_core::text::{printable, printable_json};

/// Prints a line on stdout, as `println!` does, with everything in it made printable.
macro_rules! outln {
    () => { $crate::output::print_line(format_args!("")) };
    ($($arg:tt)*) => { $crate::output::print_line(format_args!($($arg)*)) };
}

/// Prints a line on stderr, as `eprintln!` does, with everything in it made printable.
macro_rules! errln {
    ($($arg:tt)*) => { $crate::output::print_error_line(format_args!($($arg)*)) };
}

/// Why stdout can't be written any more.
static STATE: Mutex<StdoutState> = Mutex::new(StdoutState::Open);

enum StdoutState {
    Open,
    /// Its reader has closed it.
    Closed,
    /// A write failed for another reason, which is reported at the end.
    Failed(io::Error),
}

/// How many unchanged lines a diff shows around a change.
const DIFF_CONTEXT: usize = 3;

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const CYAN: &str = "\x1b[36m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// Where a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Stdout,
    Stderr,
}

/// Whether what is printed there may have colours: `NO_COLOR` forbids them, `CLICOLOR_FORCE` asks for them, and otherwise a
/// terminal has them unless `CLICOLOR=0` or `TERM=dumb` says that it should not.
pub(crate) fn has_colors(target: Target) -> bool {
    let is_terminal = match target {
        Target::Stdout => io::stdout().is_terminal(),
        Target::Stderr => io::stderr().is_terminal(),
    };
    decide_colors(is_terminal, |name| env::var_os(name))
}

fn decide_colors(is_terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let [no_color, force] = ["NO_COLOR", "CLICOLOR_FORCE"].map(|name| variable(name).filter(|value| !value.is_empty()));
    let is = |name, value: &str| variable(name).is_some_and(|set| set == value);
    if no_color.is_some() {
        return false;
    }
    if force.is_some_and(|force| force != "0") {
        return true;
    }
    is_terminal && !is("CLICOLOR", "0") && !is("TERM", "dumb")
}

/// Whether stdout is a terminal on which a command may move the cursor.
pub(crate) fn can_draw() -> bool {
    io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// Text of whole lines, each of which is printable: every `writeln!` adds one.
#[derive(Debug, Default)]
pub(crate) struct Lines(String);

impl Lines {
    /// Adds a line; `writeln!` calls this.
    pub(crate) fn write_fmt(&mut self, line: fmt::Arguments<'_>) -> fmt::Result {
        self.0.push_str(&one_line(line));
        self.0.push('\n');
        Ok(())
    }

    /// Adds a JSON text as one line.
    pub(crate) fn push_json(&mut self, json: &str) {
        // In JSON, line breaks are nothing but space between values.
        self.0.push_str(&printable_json(&json.replace(['\n', '\r'], " ")));
        self.0.push('\n');
    }

    /// The text, which ends with a line break.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is formatted, as one printable line without its line break at the end.
fn one_line(line: fmt::Arguments<'_>) -> String {
    let text = line.to_string();
    let text = text.strip_suffix('\n').unwrap_or(&text);
    printable(text).into_owned()
}

/// Prints one line on stdout; for `outln!`.
pub(crate) fn print_line(line: fmt::Arguments<'_>) {
    let mut text = one_line(line);
    text.push('\n');
    write(text.as_bytes());
}

/// Prints one line on stderr; for `errln!`. Where stderr is closed, nobody can be told.
pub(crate) fn print_error_line(line: fmt::Arguments<'_>) {
    let mut text = one_line(line);
    text.push('\n');
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Prints an error with its causes on stderr, in one line. An error in a TOML document shows where it is, in some more.
pub(crate) fn print_error(error: &anyhow::Error) {
    let mut causes = Vec::new();
    let mut excerpt = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if cause.is::<toml::de::Error>() || cause.is::<toml_edit::TomlError>() {
            let mut lines = text.lines().map(str::to_owned);
            causes.extend(lines.next());
            excerpt.extend(lines);
        } else {
            causes.push(text);
        }
    }
    errln!("error: {}", causes.join(": "));
    excerpt.iter().for_each(|line| errln!("{line}"));
}

/// Lets panics print what they say as one line: a message may contain text of strangers, such as a symbol.
///
/// A panic while a file of ticks is read is an error of the command, which prints it.
pub(crate) fn sanitize_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if tickhound_recorded::contains_panics() {
            return;
        }
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        let message = panic.payload_as_str().unwrap_or("no message");
        let location = panic.location().map_or_else(String::new, |location| format!(" at {location}"));
        errln!("thread '{name}' panicked{location}: {message}");
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            backtrace.to_string().lines().for_each(|line| errln!("{line}"));
        }
    }));
}

/// Prints the lines on stdout.
pub(crate) fn print(lines: &Lines) {
    write(lines.0.as_bytes());
}

/// Prints the lines on stderr.
pub(crate) fn print_on_stderr(lines: &Lines) {
    let _ = io::stderr().write_all(lines.0.as_bytes());
}

/// Prints a JSON text as one line on stdout.
pub(crate) fn print_json(json: &impl fmt::Display) {
    let mut line = Lines::default();
    line.push_json(&json.to_string());
    print(&line);
}

/// Prints a JSON text and a line break on stdout. The line breaks between its values stay.
pub(crate) fn print_pretty_json(json: &str) {
    let mut text = printable_json(json).into_owned();
    text.push('\n');
    write(text.as_bytes());
}

/// Prints text on a terminal that has control sequences of our own between printable lines.
pub(crate) fn draw(screen: &str) {
    write(screen.as_bytes());
}

/// Prints how a document of the user changes, as a unified diff.
pub(crate) fn print_diff(name: &str, old: &str, new: &str) {
    let has_colors = has_colors(Target::Stdout);
    let print = |style: &str, text: &str| {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let cells: Vec<_> = text.split('\t').map(printable).collect();
        let (start, end) = if has_colors && !style.is_empty() { (style, PLAIN) } else { ("", "") };
        write(format!("{start}{}{end}\n", cells.join("\t")).as_bytes());
    };
    let diff = TextDiff::from_lines(old, new);
    print(BOLD, &format!("--- {name}"));
    print(BOLD, &format!("+++ {name}"));
    for hunk in diff.unified_diff().context_radius(DIFF_CONTEXT).iter_hunks() {
        print(CYAN, &hunk.header().to_string());
        for change in hunk.iter_changes() {
            let style = match change.tag() {
                ChangeTag::Delete => RED,
                ChangeTag::Insert => GREEN,
                ChangeTag::Equal => "",
            };
            print(style, &format!("{}{}", change.tag(), change.value()));
        }
    }
}

/// Prints text of the program itself, such as its help, which has control sequences only where colours are wanted.
pub(crate) fn print_styled(target: Target, text: &str) {
    match target {
        Target::Stdout => write(text.as_bytes()),
        Target::Stderr => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// Whether stdout can't be written any more, so that a command that does nothing but print may end.
pub(crate) fn is_closed() -> bool {
    !matches!(*state(), StdoutState::Open)
}

/// Returns whether all was printed. It does not touch stdout, which may be blocked by a log that nobody reads.
///
/// # Errors
/// Stdout could not be written, for another reason than that its reader has closed it.
pub(crate) fn finish() -> io::Result<()> {
    match std::mem::replace(&mut *state(), StdoutState::Closed) {
        StdoutState::Open | StdoutState::Closed => Ok(()),
        StdoutState::Failed(error) => Err(error),
    }
}

/// A writer of JSON lines to stdout, one whole line at a time.
#[derive(Debug)]
pub(crate) struct JsonStdout;

impl io::Write for JsonStdout {
    fn write(&mut self, json: &[u8]) -> io::Result<usize> {
        write(printable_json(&String::from_utf8_lossy(json)).as_bytes());
        Ok(json.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(bytes: &[u8]) {
    let mut state = state();
    if !matches!(*state, StdoutState::Open) {
        return;
    }
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
        *state = match error.kind() {
            io::ErrorKind::BrokenPipe => StdoutState::Closed,
            _ => StdoutState::Failed(error),
        };
    }
}

fn state() -> std::sync::MutexGuard<'static, StdoutState> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_follow_one_rule() {
        let decide = |is_terminal, variables: &[(&str, &str)]| {
            decide_colors(is_terminal, |name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            })
        };
        assert!(decide(true, &[]) && !decide(false, &[]));
        for off in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
            assert!(!decide(true, &[off]), "{off:?}");
        }
        for on in [("NO_COLOR", ""), ("CLICOLOR", "1"), ("CLICOLOR_FORCE", "0"), ("TERM", "xterm")] {
            assert!(decide(true, &[on]) && !decide(false, &[on]), "{on:?}");
        }
        let force = ("CLICOLOR_FORCE", "1");
        assert!(decide(false, &[force]) && decide(false, &[force, ("CLICOLOR", "0"), ("TERM", "dumb")]));
        assert!(!decide(true, &[force, ("NO_COLOR", "1")]));
    }
}
