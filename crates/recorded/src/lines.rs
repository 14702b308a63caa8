//! Reads lines of JSON, one object each, perhaps after the time at which it was recorded; and those of a day file, each with
//! an entry of the stream.

use std::io::{self, BufRead, ErrorKind, Read};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};
use tracing::warn;

use super::{
    Options, RECORD_MAX, entry_line,
    record::Record,
    time::{self, TimeReader},
};
use tickhound_core::simulate::{Layout, layout::Encoder};

/// The lines of one file.
pub(crate) struct Lines {
    text: Box<dyn BufRead + Send>,
    name: String,
    layout: Layout,
    symbol: Option<String>,
    needs_time: bool,
    times: TimeReader,
    line: Vec<u8>,
    /// The number of the current line, from 1.
    number: u64,
    skipped: u64,
    /// Whether this is a day file: the last line was that of an entry.
    is_day_file: bool,
}

impl Lines {
    /// The lines of `text`; `name` is the file's, for messages.
    pub(crate) fn new(text: Box<dyn BufRead + Send>, name: String, options: &Options) -> Self {
        let Options { layout, symbol, needs_time, .. } = options.clone();
        let times = options.time_reader();
        Self {
            text,
            name,
            layout,
            symbol,
            needs_time,
            times,
            line: Vec::new(),
            number: 0,
            skipped: 0,
            is_day_file: false,
        }
    }

    /// The number of lines that are not a JSON object where the layout needs one.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Reads the next line into `record`; false at the end.
    pub(crate) fn next(&mut self, record: &mut Record) -> Result<bool> {
        loop {
            self.line.clear();
            self.number += 1;
            if self.read_line()? == 0 {
                return Ok(false);
            }
            ensure!(
                self.line.len() as u64 <= RECORD_MAX,
                "line {} is longer than {} MiB",
                self.number,
                RECORD_MAX >> 20
            );
            let line = self.line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            record.clear();
            if entry_line::may_be_entry(line) && entry_line::read_line(line, record) {
                ensure!(self.symbol.is_none(), "line {}: --symbol is not for recorded entries", self.number);
                self.is_day_file = true;
                // The entry is published as it was, whatever the layout.
                return Ok(true);
            }
            if self.is_day_file && !self.line.ends_with(b"\n") {
                // The file is a copy that ends within a line.
                return Ok(false);
            }
            let (recorded, json) = split_recorded(line);
            record.time = recorded;
            // The text is not parsed and written again: the host must see what the producer sent.
            if self.layout == Layout::Json && self.symbol.is_none() {
                if self.needs_time && recorded.is_none() {
                    record.time = object(json).ok().and_then(|object| time_of(&mut self.times, &object));
                }
                Encoder::payload(json, |name, value| record.put(name, value));
                return Ok(true);
            }
            match object(json) {
                Ok(mut object) => {
                    record.time = recorded.or_else(|| time_of(&mut self.times, &object));
                    if let Some(symbol) = &self.symbol {
                        object.insert("symbol".into(), symbol.as_str().into());
                    }
                    put(self.layout, object, record)?;
                    return Ok(true);
                }
                Err(error) => {
                    if self.skipped == 0 {
                        let (file, line) = (&self.name, self.number);
                        warn!(
                            event = "line_skipped",
                            file,
                            line,
                            error = %error,
                            "skipped a line that is not a JSON object; further ones are only counted"
                        );
                    }
                    self.skipped += 1;
                }
            }
        }
    }

    /// Reads the next line, and returns its length; 0 at the end. A day file may be read while it is written, or after its
    /// recorder was killed: it then ends with a part of a frame, and the entries in that are whole in the stream only.
    fn read_line(&mut self) -> io::Result<usize> {
        let mut text = (&mut self.text).take(RECORD_MAX + 1);
        match text.read_until(b'\n', &mut self.line) {
            Err(error) if self.is_day_file && error.kind() == ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        }
    }
}

/// Splits `<ns> <json>` into the time, if there is one, and the JSON text.
pub(crate) fn split_recorded(line: &[u8]) -> (Option<i64>, &[u8]) {
    let digits = line.iter().take_while(|b| b.is_ascii_digit()).count();
    let json = line[digits..].trim_ascii_start();
    if digits == 0 || !json.starts_with(b"{") {
        return (None, line);
    }
    let text = str::from_utf8(&line[..digits]).ok();
    (text.and_then(|text| time::from_number(text, text.parse().ok()?)), json)
}

fn object(json: &[u8]) -> serde_json::Result<Map<String, Value>> {
    serde_json::from_slice(json)
}

fn time_of(times: &mut TimeReader, object: &Map<String, Value>) -> Option<i64> {
    time::NAMES.iter().find_map(|name| match object.get(*name)? {
        Value::String(text) => times.read(text),
        Value::Number(number) => times.read(&number.to_string()),
        _ => None,
    })
}

fn put(layout: Layout, object: Map<String, Value>, record: &mut Record) -> Result<()> {
    match layout {
        Layout::Json => {
            let json = serde_json::to_vec(&object).context("failed to write JSON")?;
            Encoder::payload(&json, |name, value| record.put(name, value));
        }
        Layout::Msgpack => {
            let msgpack = rmp_serde::to_vec(&object).context("failed to write msgpack")?;
            Encoder::payload(&msgpack, |name, value| record.put(name, value));
        }
        Layout::Flat => {
            for (name, value) in object {
                match value {
                    Value::String(text) => record.put(name.as_bytes(), text.as_bytes()),
                    // Python publishers write none as an empty text, and nested values as JSON.
                    Value::Null => record.put(name.as_bytes(), b""),
                    other => record.put(name.as_bytes(), other.to_string().as_bytes()),
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str, layout: Layout, symbol: Option<&str>) -> (Vec<(Option<i64>, String)>, u64) {
        let options = Options { symbol: symbol.map(str::to_owned), layout, ..Options::default() };
        let mut lines = Lines::new(Box::new(text.as_bytes()), "test".into(), &options);
        let mut record = Record::default();
        let mut read = Vec::new();
        while lines.next(&mut record).unwrap() {
            let fields: Vec<_> = record
                .fields()
                .map(|(name, value)| format!("{}={}", str::from_utf8(name).unwrap(), String::from_utf8_lossy(value)))
                .collect();
            read.push((record.time, fields.join("|")));
        }
        (read, lines.skipped())
    }

    #[test]
    fn json_lines_pass_unchanged() {
        let text = "{\"b\": 1.50, \"a\":2}\n\n1723161254024619568 {\"u\":1}\r\n{broken\n";
        let (read, skipped) = read(text, Layout::Json, None);
        assert_eq!(skipped, 0);
        let expected = [
            (None, "data={\"b\": 1.50, \"a\":2}".to_owned()),
            (Some(1_723_161_254_024_619_568), "data={\"u\":1}".to_owned()),
            (None, "data={broken".to_owned()),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn flat_gives_a_field_for_each_key_and_skips_what_is_no_object() {
        let text = "{\"s\":\"X\",\"p\":1.5,\"n\":null,\"d\":{\"k\":[1]},\"timestamp\":1723118400000}\n[1]\n{broken\n";
        let (read, skipped) = read(text, Layout::Flat, None);
        assert_eq!(skipped, 2);
        let fields = "d={\"k\":[1]}|n=|p=1.5|s=X|timestamp=1723118400000";
        assert_eq!(read, [(Some(1_723_118_400_000_000_000), fields.to_owned())]);
    }

    #[test]
    fn a_symbol_is_added_on_request() {
        let (read, _) = read("{\"p\":1}\n", Layout::Json, Some("X"));
        assert_eq!(read, [(None, "data={\"p\":1,\"symbol\":\"X\"}".to_owned())]);
    }
}
