//! The queue in front of the log, with a thread of its own: code that logs never waits for its terminal, pipe or disk.
//!
//! What holds: lines are written whole and in order. Where they are written too slowly, as to a suspended terminal or a
//! pipe that nobody reads, up to 1 MiB of them waits, and later lines are left out. The log says where that
//! begins, and how many lines were left out where it ends.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::log_file::{LogFile, in_form_of};

/// Bytes of lines that may wait: some seconds of the busiest market.
const QUEUE_MAX: usize = 1 << 20;

/// Where the log goes.
#[derive(Debug)]
pub(crate) enum LogTarget {
    /// Standard output.
    Stdout,
    /// A file.
    File(LogFile),
}

/// A log that any thread may write to, one line at a time; writing never blocks.
#[derive(Debug)]
pub(crate) struct LogQueue {
    is_file: bool,
    waiting: Mutex<WaitingLines>,
    changed: Condvar,
}

/// Why lines are missing from the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogHealth {
    /// None is.
    #[default]
    Works,
    /// They can't be written.
    Fails {
        /// How many could not be written since one could.
        lines: u64,
        /// Why.
        cause: String,
    },
    /// They are written too slowly.
    Slow {
        /// How many were left out since one fitted.
        lines: u64,
    },
}

#[derive(Debug, Default)]
struct WaitingLines {
    items: VecDeque<Item>,
    bytes: usize,
    /// Lines that were left out since the last line that fitted.
    left_out: u64,
    /// The first of them; the lines about them have its form.
    first_left_out: Vec<u8>,
    /// Whether the thread is writing an item that is no longer in the queue.
    writing: bool,
    /// What the last line that was written has shown.
    written: LogHealth,
}

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    Reopen,
}

impl LogQueue {
    /// Starts the thread that writes to `target`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(target: LogTarget) -> Result<Arc<Self>> {
        let is_file = matches!(target, LogTarget::File(_));
        let queue = Arc::new(Self { is_file, waiting: Mutex::default(), changed: Condvar::new() });
        let writer = queue.clone();
        let thread = thread::Builder::new().name("log".into()).spawn(move || writer.write_for_ever(target));
        thread.context("failed to start the thread of the log")?;
        Ok(queue)
    }

    /// Whether the log is a file.
    pub(crate) fn is_file(&self) -> bool {
        self.is_file
    }

    /// Reopens the file by its name, after the lines that wait are written.
    pub(crate) fn reopen(&self) {
        self.lock().items.push_back(Item::Reopen);
        self.changed.notify_all();
    }

    /// Whether lines are missing from the log at present.
    pub(crate) fn health(&self) -> LogHealth {
        let waiting = self.lock();
        match waiting.left_out {
            0 => waiting.written.clone(),
            lines => LogHealth::Slow { lines },
        }
    }

    /// Waits until all lines are written, at most for `longest`.
    pub(crate) fn finish(&self, longest: Duration) {
        let until = Instant::now() + longest;
        let mut waiting = self.lock();
        while !waiting.items.is_empty() || waiting.writing || waiting.left_out > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write_for_ever(&self, mut target: LogTarget) {
        loop {
            match (self.next(), &mut target) {
                // `tickhound run | head` closes the log; the run continues, and nothing can be reported.
                (Item::Line(line), LogTarget::Stdout) => drop(io::stdout().write_all(&line)),
                (Item::Line(line), LogTarget::File(file)) => {
                    file.append(&line);
                    let failure = file.failure().map(|(lines, cause)| LogHealth::Fails { lines, cause: cause.into() });
                    self.lock().written = failure.unwrap_or_default();
                }
                (Item::Reopen, LogTarget::File(file)) => file.reopen(),
                (Item::Reopen, LogTarget::Stdout) => {}
            }
        }
    }

    fn next(&self) -> Item {
        let mut waiting = self.lock();
        waiting.writing = false;
        self.changed.notify_all();
        loop {
            if let Some(item) = waiting.take() {
                waiting.writing = true;
                return item;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, WaitingLines> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lock().add(line);
        self.changed.notify_all();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WaitingLines {
    fn add(&mut self, line: &[u8]) {
        // Once lines are left out, half of the queue must be free again. Otherwise lines would be accepted and left out
        // in turn, with a line about each change.
        let most = if self.left_out == 0 { QUEUE_MAX } else { QUEUE_MAX / 2 };
        if self.bytes + line.len() > most {
            if self.left_out == 0 {
                let what = "the log is written too slowly; leaving out lines from here on";
                self.push(in_form_of(line, "WARN", "log_lines_left_out", what));
                self.first_left_out = line.to_vec();
            }
            self.left_out += 1;
            return;
        }
        self.report_left_out();
        self.push(line.to_vec());
    }

    fn take(&mut self) -> Option<Item> {
        if self.items.is_empty() && self.left_out > 0 {
            self.report_left_out();
        }
        let item = self.items.pop_front()?;
        if let Item::Line(line) = &item {
            self.bytes -= line.len();
        }
        Some(item)
    }

    fn report_left_out(&mut self) {
        let (count, first) = (std::mem::take(&mut self.left_out), std::mem::take(&mut self.first_left_out));
        if count > 0 {
            let what = format!("{count} lines were left out of this log because it was written too slowly");
            self.push(in_form_of(&first, "WARN", "log_lines_left_out_end", &what));
        }
    }

    fn push(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.items.push_back(Item::Line(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(waiting: &mut WaitingLines) -> Vec<String> {
        let line = |item| match item {
            Item::Line(line) => String::from_utf8(line).unwrap(),
            Item::Reopen => "reopen".into(),
        };
        std::iter::from_fn(|| waiting.take().map(line)).collect()
    }

    #[test]
    fn lines_that_do_not_fit_are_counted_between_two_lines_about_them() {
        let mut waiting = WaitingLines::default();
        let line = |number: usize| format!("{number:0999}\n");
        let room = QUEUE_MAX / 1000;
        (0..room + 7).for_each(|number| waiting.add(line(number).as_bytes()));
        let texts = texts(&mut waiting);
        assert_eq!(texts.len(), room + 2);
        assert_eq!(texts[room - 1], line(room - 1));
        assert!(texts[room].contains("WARN") && texts[room].contains("log_lines_left_out"), "{}", texts[room]);
        assert!(texts[room + 1].contains("7 lines were left out"), "{}", texts[room + 1]);
    }

    /// Where no other line came after those that were left out, the note of their number was text in a JSON log.
    #[test]
    fn a_json_log_that_ends_with_lines_left_out_has_notes_in_json() {
        let mut waiting = WaitingLines::default();
        let line = format!("{{\"number\":\"{:0984}\"}}\n", 1);
        (0..QUEUE_MAX / line.len() + 3).for_each(|_| waiting.add(line.as_bytes()));
        let texts = texts(&mut waiting);
        let json = |text: &String| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(json(&texts[texts.len() - 2])["event"], "log_lines_left_out");
        assert_eq!(json(&texts[texts.len() - 1])["event"], "log_lines_left_out_end");
        assert!(waiting.first_left_out.is_empty() && waiting.left_out == 0);
    }

    #[test]
    fn lines_are_accepted_again_when_half_of_the_queue_is_free() {
        let mut waiting = WaitingLines::default();
        let line = format!("{{{:0998}\n", 1);
        let room = QUEUE_MAX / 1000;
        (0..room + 1).for_each(|_| waiting.add(line.as_bytes()));
        (0..room / 4).for_each(|_| drop(waiting.take()));
        waiting.add(line.as_bytes());
        assert_eq!(waiting.left_out, 2, "a quarter is too little");
        (0..room / 2).for_each(|_| drop(waiting.take()));
        waiting.add(line.as_bytes());
        let texts = texts(&mut waiting);
        assert_eq!(texts.last(), Some(&line));
        let note: serde_json::Value = serde_json::from_str(&texts[texts.len() - 2]).unwrap();
        assert_eq!(note["event"], "log_lines_left_out_end");
        assert_eq!(waiting.bytes, 0);
    }
}
