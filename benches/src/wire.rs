//! The leanest way to talk to Redis: commands into one buffer, answers looked at in place.
//!
//! Baselines are made of it, so it does nothing that it need not: what is of no interest is skipped, not copied.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// As much as a batch of entries takes.
const BUFFER_BYTES: usize = 1 << 18;

/// A connection.
pub(crate) struct Wire {
    socket: TcpStream,
    input: Vec<u8>,
    /// What of `input` is still to be looked at.
    at: usize,
    filled: usize,
    /// What is sent next.
    pub(crate) output: Commands,
}

/// Commands as they are sent.
#[derive(Default)]
pub(crate) struct Commands(pub(crate) Vec<u8>);

/// What an answer, or a part of one, begins with.
#[derive(Debug, PartialEq)]
pub(crate) enum Token {
    /// So many parts follow.
    Array(usize),
    /// So many bytes follow: [`Wire::take`] or [`Wire::skip`] them.
    Bulk(usize),
    /// Nothing there.
    Nil,
    /// `+OK` and the like.
    Status,
    /// A number.
    Number(i64),
}

impl Commands {
    /// Begins a command of so many words, which follow by [`Commands::word`].
    pub(crate) fn begin(&mut self, words: usize) {
        self.0.push(b'*');
        self.number(words);
    }

    pub(crate) fn word(&mut self, word: &[u8]) {
        self.0.push(b'$');
        self.number(word.len());
        self.0.extend_from_slice(word);
        self.0.extend_from_slice(b"\r\n");
    }

    pub(crate) fn command(&mut self, words: &[&[u8]]) {
        self.begin(words.len());
        words.iter().for_each(|word| self.word(word));
    }

    fn number(&mut self, number: usize) {
        let mut digits = [0; 20];
        let (mut at, mut left) = (digits.len(), number);
        loop {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[at..]);
        self.0.extend_from_slice(b"\r\n");
    }
}

impl Wire {
    pub(crate) fn connect(port: u16) -> Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).context("can't connect to the server")?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, input: vec![0; BUFFER_BYTES], at: 0, filled: 0, output: Commands::default() })
    }

    /// Fails when nothing comes for so long.
    pub(crate) fn patience(&self, time: Duration) -> Result<()> {
        Ok(self.socket.set_read_timeout(Some(time))?)
    }

    /// Adds what is a command already.
    pub(crate) fn raw(&mut self, command: &[u8]) {
        self.output.0.extend_from_slice(command);
    }

    /// Sends what was begun, in one piece.
    pub(crate) fn send(&mut self) -> Result<()> {
        self.socket.write_all(&self.output.0)?;
        self.output.0.clear();
        Ok(())
    }

    /// The next token; waits for it. An error of the server is one here.
    pub(crate) fn token(&mut self) -> Result<Token> {
        let end = loop {
            match self.input[self.at..self.filled].iter().position(|byte| *byte == b'\n') {
                Some(end) => break self.at + end,
                None => self.fill()?,
            }
        };
        let (kind, line) = (self.input[self.at], &self.input[self.at + 1..end - 1]);
        let number = || -> Result<i64> { Ok(str::from_utf8(line)?.parse()?) };
        let token = match kind {
            b'*' => usize::try_from(number()?).map_or(Token::Nil, Token::Array),
            b'$' => usize::try_from(number()?).map_or(Token::Nil, Token::Bulk),
            b':' => Token::Number(number()?),
            b'+' => Token::Status,
            b'-' => bail!("the server says: {}", String::from_utf8_lossy(line)),
            other => bail!("an answer begins with {:?}", char::from(other)),
        };
        self.at = end + 1;
        Ok(token)
    }

    /// The bytes of a bulk.
    pub(crate) fn take(&mut self, length: usize) -> Result<&[u8]> {
        while self.filled - self.at < length + 2 {
            self.fill()?;
        }
        let start = self.at;
        self.at += length + 2;
        Ok(&self.input[start..start + length])
    }

    /// Passes over the bytes of a bulk.
    pub(crate) fn skip(&mut self, length: usize) -> Result<()> {
        let mut left = length + 2;
        while self.filled - self.at < left {
            left -= self.filled - self.at;
            self.at = self.filled;
            self.fill()?;
        }
        self.at += left;
        Ok(())
    }

    /// The bytes of a bulk become a word of the command that was begun.
    pub(crate) fn take_as_word(&mut self, length: usize) -> Result<()> {
        self.take(length)?;
        let input = std::mem::take(&mut self.input);
        let end = self.at - 2;
        self.output.word(&input[end - length..end]);
        self.input = input;
        Ok(())
    }

    /// Passes over whole answers.
    pub(crate) fn skip_answers(&mut self, answers: usize) -> Result<()> {
        let mut left = answers;
        while left > 0 {
            left -= 1;
            match self.token()? {
                Token::Array(parts) => left += parts,
                Token::Bulk(length) => self.skip(length)?,
                Token::Nil | Token::Status | Token::Number(_) => {}
            }
        }
        Ok(())
    }

    /// Expects an array of so many parts.
    pub(crate) fn array_of(&mut self, parts: usize) -> Result<()> {
        let token = self.token()?;
        ensure!(token == Token::Array(parts), "an array of {parts} was expected, not {token:?}");
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        if self.at == self.filled {
            (self.at, self.filled) = (0, 0);
        } else if self.filled == self.input.len() {
            self.input.copy_within(self.at..self.filled, 0);
            (self.at, self.filled) = (0, self.filled - self.at);
            if self.filled == self.input.len() {
                self.input.resize(2 * self.filled, 0);
            }
        }
        let read = self.socket.read(&mut self.input[self.filled..])?;
        ensure!(read > 0, "the server closed the connection");
        self.filled += read;
        Ok(())
    }
}
