//! The line of an entry of the stream in a day file: its id, its number, and its fields as the producer wrote them.
//!
//! `{"entry":"1762140000000-0","index":17,"fields":{"data":"…"}}`
//!
//! What holds: a line has exactly this form, so that no object of a producer is taken for one; and what is read back is
//! the entry, byte for byte.

use std::io::Write;

use tickhound_core::{
    event::{Entry, EntryId},
    publish::{WHOLE_BYTES_MAX, raw_fields, raw_json},
};

use crate::{RECORD_MAX, record::Record};

/// How each line begins.
const BEGINNING: &[u8] = b"{\"entry\":\"";

/// What stands before the number of the entry, which may be missing.
const INDEX: &str = ",\"index\":";

/// What stands before the fields.
const FIELDS: &str = ",\"fields\":";

/// An error: the entry is too large for a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the entry {0} is larger than {max} MiB", max = WHOLE_BYTES_MAX >> 20)]
pub struct EntryTooLarge(pub EntryId);

/// Appends the line of an entry. `index` is its number among all that were ever added to the stream, if that is known.
pub(crate) fn write_line(out: &mut Vec<u8>, entry: &Entry<'_>, index: Option<u64>) -> Result<(), EntryTooLarge> {
    let bytes: usize = entry.fields().map(|(name, value)| name.len() + value.len()).sum();
    let begin = out.len();
    if bytes <= WHOLE_BYTES_MAX {
        out.extend_from_slice(BEGINNING);
        // Writing to memory can't fail.
        let _ = write!(out, "{}\"", entry.id);
        if let Some(index) = index {
            let _ = write!(out, "{INDEX}{index}");
        }
        let _ = writeln!(out, "{FIELDS}{}}}", raw_json(entry));
        if (out.len() - begin) as u64 <= RECORD_MAX {
            return Ok(());
        }
        out.truncate(begin);
    }
    Err(EntryTooLarge(entry.id))
}

/// Whether a line may be that of an entry; most lines of other files are not.
pub(crate) fn may_be_entry(line: &[u8]) -> bool {
    line.starts_with(BEGINNING)
}

/// Reads a line into `record`; false, with the record unchanged, if the line has another form.
pub(crate) fn read_line(line: &[u8], record: &mut Record) -> bool {
    let Some((id, fields)) = parse(line) else { return false };
    let Ok(fields) = raw_fields(fields) else { return false };
    record.clear();
    record.id = Some(id);
    record.time = i64::try_from(id.millis).ok().and_then(|millis| millis.checked_mul(1_000_000));
    fields.iter().for_each(|(name, value)| record.put(name, value));
    true
}

/// The id of the entry in a line, and the text of its fields.
fn parse(line: &[u8]) -> Option<(EntryId, &str)> {
    let rest = str::from_utf8(line.strip_prefix(BEGINNING)?).ok()?;
    let (id, rest) = rest.split_once('"')?;
    // An id has one form only; the parser also accepts others, such as one without a sequence.
    let parsed: EntryId = id.parse().ok()?;
    let rest = match rest.strip_prefix(INDEX) {
        Some(numbered) => numbered.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let fields = rest.strip_prefix(FIELDS)?.strip_suffix('}')?;
    (parsed.to_string() == id).then_some((parsed, fields))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use tickhound_core::event::Entries;

    use super::*;

    fn entry(id: EntryId, fields: &[(Vec<u8>, Vec<u8>)]) -> Entries {
        let mut entries = Entries::default();
        entries.push_entry(id);
        fields.iter().for_each(|(name, value)| entries.push_field(name, value));
        entries
    }

    fn line(entries: &Entries, index: Option<u64>) -> Result<String, EntryTooLarge> {
        let mut out = Vec::new();
        write_line(&mut out, &entries.get(0).unwrap(), index).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_line_has_the_documented_form() {
        let id = EntryId { millis: 1_762_140_000_000, seq: 3 };
        let entries = entry(id, &[(b"data".to_vec(), b"{\"p\":1}".to_vec())]);
        let text = line(&entries, Some(17)).unwrap();
        assert_eq!(text, "{\"entry\":\"1762140000000-3\",\"index\":17,\"fields\":{\"data\":\"{\\\"p\\\":1}\"}}\n");
        assert_eq!(line(&entries, None).unwrap(), text.replace(",\"index\":17", ""));
    }

    #[test]
    fn an_object_of_a_producer_is_no_entry() {
        let mut record = Record::default();
        for text in [
            r#"{"entry":"7-1","fields":{"a":"1"},"more":1}"#,
            r#"{"entry":"7","fields":{"a":"1"}}"#,
            r#"{"entry":"07-1","fields":{"a":"1"}}"#,
            r#"{"entry":"7-1","index":-1,"fields":{"a":"1"}}"#,
            r#"{"entry":"7-1","fields":{"a":1}}"#,
            r#"{"entry":"7-1","fields":{"a":"1"}"#,
            r#"{"entry":"7-1", "fields":{"a":"1"}}"#,
            r#"{"entry":"market open","price":5}"#,
        ] {
            assert!(!read_line(text.as_bytes(), &mut record), "{text}");
        }
    }

    /// A value of control characters takes six times its length as JSON.
    #[test]
    fn an_entry_that_no_reader_would_accept_is_not_written() {
        let id = EntryId { millis: 7, seq: 0 };
        for value in [vec![b'x'; WHOLE_BYTES_MAX], vec![1; WHOLE_BYTES_MAX / 2]] {
            assert_eq!(line(&entry(id, &[(b"data".to_vec(), value)]), Some(1)), Err(EntryTooLarge(id)));
        }
        assert!(line(&entry(id, &[(b"data".to_vec(), vec![b'x'; WHOLE_BYTES_MAX - 4])]), Some(1)).is_ok());
    }

    proptest! {
        #[test]
        fn any_entry_comes_back_as_it_was(
            (millis, seq, index) in (any::<u64>(), any::<u64>(), any::<Option<u64>>()),
            fields in proptest::collection::vec((
                prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)],
                prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)],
            ), 0..6)
        ) {
            let id = EntryId { millis, seq };
            let text = line(&entry(id, &fields), index).unwrap();
            prop_assert!(!text.trim_end().contains('\n') && may_be_entry(text.as_bytes()));
            let mut record = Record::default();
            prop_assert!(read_line(text.trim_end().as_bytes(), &mut record));
            prop_assert_eq!(record.id, Some(id));
            let read: Vec<(Vec<u8>, Vec<u8>)> =
                record.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(read, fields);
        }
    }
}
