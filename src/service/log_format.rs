//! The form of log lines: what strangers wrote into a symbol, a plugin or a reply can't leave its field.
//!
//! What holds: in an event, text has no line break and no character that controls a terminal or is invisible, except the
//! line break at its end and the colours that the log itself sets. Otherwise it looks as `tracing_subscriber` writes it.

use std::{
    error::Error,
    fmt::{self, Debug, Write as _},
    io,
};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, MakeWriter, format::Writer, writer::BoxMakeWriter},
};

use tickhound_core::text::{PrintableWriter, printable_json};

/// Writes the fields of an event as text, in one line.
#[derive(Debug)]
pub(crate) struct PrintableFields;

impl<'writer> FormatFields<'writer> for PrintableFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = PrintableVisitor { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct PrintableVisitor<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    result: fmt::Result,
}

impl PrintableVisitor<'_> {
    fn write(&mut self, field: &Field, value: &dyn Debug) -> fmt::Result {
        if !std::mem::take(&mut self.is_empty) {
            self.writer.write_char(' ')?;
        }
        let name = field.name();
        if name != "message" {
            let name = name.strip_prefix("r#").unwrap_or(name);
            // The colours are the log's own.
            if self.writer.has_ansi_escapes() {
                write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?;
            } else {
                write!(self.writer, "{name}=")?;
            }
        }
        write!(PrintableWriter(&mut self.writer), "{value:?}")
    }
}

impl Visit for PrintableVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.record_debug(field, &format_args!("{text}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.result.is_ok() {
            self.result = self.write(field, value);
        }
    }
}

/// Writes events that are JSON: what JSON would leave as it is becomes an escape.
pub(crate) struct PrintableJson(pub(crate) BoxMakeWriter);

impl<'a> MakeWriter<'a> for PrintableJson {
    type Writer = PrintableJsonWriter<<BoxMakeWriter as MakeWriter<'a>>::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        PrintableJsonWriter(self.0.make_writer())
    }
}

/// The writer of one event, which is written as a whole.
pub(crate) struct PrintableJsonWriter<W>(W);

impl<W: io::Write> io::Write for PrintableJsonWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(printable_json(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
