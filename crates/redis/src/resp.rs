//! RESP2, the server's protocol, as far as a step needs it: packs commands and parses replies.
//!
//! Parsing does no I/O and copies nothing: a reply is parsed in the buffer that received it. What holds: nothing panics,
//! whatever bytes arrive and however they are split; bytes that are not RESP2 are an error, after which the connection
//! can't be used.

use std::{fmt::Display, ops::Deref};

use tickhound_core::event::{Entries, EntryId};

/// Limits a line, which holds a length, a number, or the text of an error.
const LINE_MAX: usize = 64 * 1024;

/// Limits the capacity that a buffer keeps from one message to the next.
pub(super) const BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// The bytes are not RESP2, or not the reply that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unexpected answer: {0}")]
pub struct UnexpectedReply(pub &'static str);

/// Commands, packed one after the other.
#[derive(Debug, Default)]
pub(super) struct Commands {
    bytes: Vec<u8>,
    /// The arguments of the unfinished command.
    args: Vec<u8>,
    /// The number of arguments in `args`.
    count: usize,
    /// The end of each finished command in `bytes`.
    ends: Vec<usize>,
    /// A buffer for arguments that have to be formatted.
    text: String,
}

impl Commands {
    /// Removes all commands.
    pub(super) fn clear(&mut self) {
        for buffer in [&mut self.bytes, &mut self.args] {
            buffer.clear();
            buffer.shrink_to(BUFFER_BYTES);
        }
        self.ends.clear();
        self.count = 0;
    }

    /// The number of finished commands.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// All finished commands as they are sent.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One finished command as it is sent.
    pub(super) fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }

    /// Adds an argument to the unfinished command. The first argument is the name.
    pub(super) fn arg(&mut self, arg: impl AsRef<[u8]>) -> &mut Self {
        let arg = arg.as_ref();
        push_line(&mut self.args, b'$', arg.len() as u64);
        self.args.extend_from_slice(arg);
        self.args.extend_from_slice(b"\r\n");
        self.count += 1;
        self
    }

    /// Formats an argument and adds it to the unfinished command.
    pub(super) fn show(&mut self, arg: impl Display) -> &mut Self {
        use std::fmt::Write;
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        // Writing to a `String` can't fail.
        let _ = write!(text, "{arg}");
        self.arg(&text);
        self.text = text;
        self
    }

    /// Adds an id to the unfinished command. It avoids the formatter, because every entry is acknowledged by its id.
    pub(super) fn id(&mut self, id: EntryId) -> &mut Self {
        let (millis, seq) = (Digits::of(id.millis), Digits::of(id.seq));
        push_line(&mut self.args, b'$', (millis.len() + 1 + seq.len()) as u64);
        self.args.extend_from_slice(&millis);
        self.args.push(b'-');
        self.args.extend_from_slice(&seq);
        self.args.extend_from_slice(b"\r\n");
        self.count += 1;
        self
    }

    /// Finishes the unfinished command.
    pub(super) fn end(&mut self) {
        debug_assert!(self.count > 0, "a command has a name");
        push_line(&mut self.bytes, b'*', self.count as u64);
        self.bytes.append(&mut self.args);
        self.count = 0;
        self.ends.push(self.bytes.len());
    }

    /// Adds a command that was packed before.
    pub(super) fn push_packed(&mut self, command: &[u8]) {
        debug_assert!(self.count == 0, "the command before is finished");
        self.bytes.extend_from_slice(command);
        self.ends.push(self.bytes.len());
    }

    /// Adds a command that consists of these words.
    pub(super) fn words(&mut self, words: &[&str]) {
        words.iter().for_each(|word| {
            self.arg(word);
        });
        self.end();
    }
}

fn push_line(bytes: &mut Vec<u8>, kind: u8, number: u64) {
    bytes.push(kind);
    bytes.extend_from_slice(&Digits::of(number));
    bytes.extend_from_slice(b"\r\n");
}

/// The decimal digits of a number, without an allocation.
struct Digits {
    digits: [u8; 20],
    /// The index of the first digit.
    from: usize,
}

impl Digits {
    fn of(number: u64) -> Self {
        let (mut digits, mut rest) = ([0; 20], number);
        let mut from = digits.len();
        loop {
            from -= 1;
            digits[from] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return Self { digits, from };
            }
        }
    }
}

impl Deref for Digits {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.digits[self.from..]
    }
}

/// Detects when a number of replies have arrived completely, without scanning any byte twice.
#[derive(Debug)]
pub struct Scanner {
    at: usize,
    /// The number of values that are missing, including those inside arrays.
    open: usize,
}

impl Scanner {
    /// Creates a scanner that expects this number of replies.
    pub fn new(replies: usize) -> Self {
        Self { at: 0, open: replies }
    }

    /// Scans what has arrived so far, which begins with the first reply. Returns the end of the last reply once it is
    /// complete.
    ///
    /// # Errors
    /// When the bytes are not RESP2.
    pub fn scan(&mut self, received: &[u8]) -> Result<Option<usize>, UnexpectedReply> {
        while self.open > 0 {
            let Some((kind, line, next)) = line(received, self.at)? else { return Ok(None) };
            let (inside, next) = match kind {
                b'+' | b'-' => (0, next),
                b':' => number(line).map(|_| (0, next))?,
                b'*' => (length(line)?.unwrap_or(0), next),
                _ => match length(line)? {
                    None => (0, next),
                    Some(length) => {
                        let Some(end) = next.checked_add(length).and_then(|end| end.checked_add(2)) else {
                            return Err(UnexpectedReply("an invalid length"));
                        };
                        match received.get(end - 2..end) {
                            None => return Ok(None),
                            Some(b"\r\n") => (0, end),
                            Some(_) => return Err(UnexpectedReply("a text longer than announced")),
                        }
                    }
                },
            };
            self.open = (self.open - 1).checked_add(inside).ok_or(UnexpectedReply("an invalid length"))?;
            self.at = next;
        }
        Ok(Some(self.at))
    }
}

/// Reads replies that have arrived completely.
#[derive(Clone, Debug)]
pub struct Replies<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A value, or the beginning of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// An array of this length; its values follow.
    Array(usize),
    /// A text of any bytes.
    Bulk(&'a [u8]),
    /// A text of one line.
    Simple(&'a [u8]),
    /// An integer.
    Int(i64),
    /// The reason why the server did not execute the command.
    Error(&'a [u8]),
    /// No value.
    Nil,
}

impl<'a> Replies<'a> {
    /// Starts with the first reply.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Reads the next value.
    ///
    /// # Errors
    /// When there is no value, or it is not RESP2.
    pub fn item(&mut self) -> Result<Item<'a>, UnexpectedReply> {
        const SHORT: UnexpectedReply = UnexpectedReply("it ends too soon");
        let (kind, text, next) = line(self.bytes, self.at)?.ok_or(SHORT)?;
        self.at = next;
        Ok(match kind {
            b'+' => Item::Simple(text),
            b'-' => Item::Error(text),
            b':' => Item::Int(number(text)?),
            b'*' => length(text)?.map_or(Item::Nil, Item::Array),
            _ => match length(text)? {
                None => Item::Nil,
                Some(length) => {
                    let end = next.checked_add(length).ok_or(SHORT)?;
                    let bulk = self.bytes.get(next..end).ok_or(SHORT)?;
                    self.at = end + 2;
                    Item::Bulk(bulk)
                }
            },
        })
    }

    /// Reads the length of the next value, which is an array; nil counts as an empty array.
    ///
    /// # Errors
    /// When the value is not an array.
    pub fn array(&mut self) -> Result<usize, UnexpectedReply> {
        match self.item()? {
            Item::Array(length) => Ok(length),
            Item::Nil => Ok(0),
            _ => Err(UnexpectedReply("expected a list")),
        }
    }

    /// Reads the next value, which is a text.
    ///
    /// # Errors
    /// When the value is not a text.
    pub fn bulk(&mut self) -> Result<&'a [u8], UnexpectedReply> {
        match self.item()? {
            Item::Bulk(bytes) | Item::Simple(bytes) => Ok(bytes),
            _ => Err(UnexpectedReply("expected a text")),
        }
    }

    /// Reads the next value, which is a list of entries in the form of `XRANGE` and `XREADGROUP`, or nil, and adds them to
    /// `entries`.
    ///
    /// # Errors
    /// When the value is not a list of entries.
    pub fn entries(&mut self, entries: &mut Entries) -> Result<(), UnexpectedReply> {
        const UNEXPECTED: UnexpectedReply = UnexpectedReply("expected an entry");
        let count = self.array()?;
        for entry in 0..count {
            if self.array()? != 2 {
                return Err(UNEXPECTED);
            }
            let id = std::str::from_utf8(self.bulk()?).ok().and_then(|id| id.parse().ok()).ok_or(UNEXPECTED)?;
            // An entry that was trimmed after its delivery has nil for its fields.
            let fields = self.array()? / 2;
            if entry == 0 {
                // Reserve once, because the server waits for the next step meanwhile. Entries have mostly the same
                // fields, and the shortest field takes 12 bytes.
                let bytes = self.bytes.len() - self.at;
                let fields = fields.saturating_mul(count).min(bytes / 12);
                entries.reserve(count.min(bytes / 12), fields, bytes);
            }
            entries.push_entry(id);
            for _ in 0..fields {
                let (name, value) = (self.bulk()?, self.bulk()?);
                entries.push_field(name, value);
            }
        }
        Ok(())
    }

    /// Skips the next value; returns the text of the error if the value is one.
    ///
    /// # Errors
    /// When there is no value, or it is not RESP2.
    pub fn skip(&mut self) -> Result<Option<&'a [u8]>, UnexpectedReply> {
        let mut inside = match self.item()? {
            Item::Error(error) => return Ok(Some(error)),
            Item::Array(length) => length,
            _ => 0,
        };
        while inside > 0 {
            inside -= 1;
            if let Item::Array(length) = self.item()? {
                inside = inside.checked_add(length).ok_or(UnexpectedReply("an invalid length"))?;
            }
        }
        Ok(None)
    }
}

/// The first byte of a line, the rest of its text, and the start of the next line.
type Line<'a> = (u8, &'a [u8], usize);

/// Reads the line that begins at `at`, if it has arrived completely.
fn line(bytes: &[u8], at: usize) -> Result<Option<Line<'_>>, UnexpectedReply> {
    let Some((kind, rest)) = bytes.get(at..).and_then(<[u8]>::split_first) else { return Ok(None) };
    if !matches!(kind, b'+' | b'-' | b':' | b'$' | b'*') {
        return Err(UnexpectedReply("not RESP2"));
    }
    // Lengths and numbers are short, so a search byte by byte is the fastest.
    let window = &rest[..rest.len().min(LINE_MAX)];
    match window.iter().position(|byte| *byte == b'\r') {
        Some(end) => match rest.get(end + 1) {
            Some(b'\n') => Ok(Some((*kind, &rest[..end], at + end + 3))),
            Some(_) => Err(UnexpectedReply("a line that does not end")),
            None => Ok(None),
        },
        None if window.len() == LINE_MAX => Err(UnexpectedReply("a line that does not end")),
        None => Ok(None),
    }
}

fn number(text: &[u8]) -> Result<i64, UnexpectedReply> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(UnexpectedReply("not a number"))
}

/// Parses a length; `None` stands for nil.
fn length(text: &[u8]) -> Result<Option<usize>, UnexpectedReply> {
    const INVALID: UnexpectedReply = UnexpectedReply("an invalid length");
    if text == b"-1" {
        return Ok(None);
    }
    // A text is at most 512 MB long, and ten digits can't overflow.
    if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
        return Err(INVALID);
    }
    Ok(Some(text.iter().fold(0, |length, digit| length * 10 + usize::from(digit - b'0'))))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn a_command_is_packed_as_the_protocol_says() {
        let mut commands = Commands::default();
        commands.arg("SET").arg("key").show(12345);
        commands.end();
        commands.words(&["EXEC"]);
        let set = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\n12345\r\n";
        assert_eq!((commands.get(0), commands.get(1)), (&set[..], &b"*1\r\n$4\r\nEXEC\r\n"[..]));
        assert_eq!((commands.len(), commands.bytes()), (2, &[&set[..], b"*1\r\n$4\r\nEXEC\r\n"].concat()[..]));
        commands.clear();
        commands.push_packed(set);
        assert_eq!((commands.len(), commands.bytes()), (1, &set[..]));
    }

    #[test]
    fn ids_are_written_as_they_are_shown() {
        for id in
            [EntryId::ZERO, EntryId { millis: 1_762_150_000_000, seq: 7 }, EntryId { millis: u64::MAX, seq: u64::MAX }]
        {
            let (mut by_hand, mut shown) = (Commands::default(), Commands::default());
            by_hand.arg("XACK").id(id).end();
            shown.arg("XACK").show(id).end();
            assert_eq!(by_hand.bytes(), shown.bytes());
        }
    }

    #[test]
    fn replies_are_read_as_they_were_sent() {
        let mut replies = Replies::new(b"+OK\r\n*3\r\n$2\r\n\r\n\r\n*-1\r\n-ERR no\r\n:-7\r\n$-1\r\n");
        assert_eq!(replies.skip(), Ok(None));
        assert_eq!(replies.array(), Ok(3));
        assert_eq!(replies.bulk(), Ok(&b"\r\n"[..]));
        assert_eq!(replies.array(), Ok(0));
        assert_eq!(replies.skip(), Ok(Some(&b"ERR no"[..])));
        assert_eq!((replies.item(), replies.item()), (Ok(Item::Int(-7)), Ok(Item::Nil)));
        assert_eq!(replies.item(), Err(UnexpectedReply("it ends too soon")));
    }

    #[test]
    fn bytes_that_are_not_a_reply_are_an_error() {
        let cases: [&[u8]; 8] = [
            b"hello\r\n",
            b"%1\r\n",
            b"$-2\r\n",
            b"$99999999999\r\n",
            b"*x\r\n",
            b":1.5\r\n",
            b"$2\r\nabc\r\n",
            b"+OK\rx",
        ];
        for case in cases {
            assert!(Scanner::new(1).scan(case).is_err(), "{}", String::from_utf8_lossy(case));
        }
        assert!(Scanner::new(1).scan(&[&b"+"[..], &[b'x'; LINE_MAX]].concat()).is_err());
    }

    /// What a server may send, and the number of values in it.
    fn reply() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            vec(any::<u8>(), 0..20)
                .prop_map(|bulk| [format!("${}\r\n", bulk.len()).as_bytes(), &bulk, b"\r\n"].concat()),
            any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes()),
            "[ -~]{0,12}".prop_map(|text| format!("+{text}\r\n").into_bytes()),
            "[ -~]{0,12}".prop_map(|text| format!("-{text}\r\n").into_bytes()),
            Just(b"$-1\r\n".to_vec()),
            Just(b"*-1\r\n".to_vec()),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            vec(inner, 0..5).prop_map(|items| [format!("*{}\r\n", items.len()).into_bytes(), items.concat()].concat())
        })
    }

    proptest! {
        #[test]
        fn a_reply_is_whole_at_its_last_byte_however_it_is_cut(
            replies in vec(reply(), 1..4), cuts in vec(any::<prop::sample::Index>(), 0..6)
        ) {
            let all = replies.concat();
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(all.len())).collect();
            ends.sort_unstable();
            let mut scanner = Scanner::new(replies.len());
            for end in ends {
                prop_assert_eq!(scanner.scan(&all[..end]), Ok(None));
            }
            prop_assert_eq!(scanner.scan(&[&all[..], b"+next\r\n"].concat()), Ok(Some(all.len())));
            let mut read = Replies::new(&all);
            for _ in &replies {
                prop_assert!(read.skip().is_ok());
            }
            prop_assert_eq!(read.at, all.len());
        }

        #[test]
        fn rubbish_never_panics(bytes in vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1'), any::<u8>()], 0..60)) {
            let _ = Scanner::new(2).scan(&bytes);
            let mut replies = Replies::new(&bytes);
            while replies.item().is_ok() {}
        }
    }
}
