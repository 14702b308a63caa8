//! A connection that parses entries in place: for steps, and for reading what the stream holds.
//!
//! The client crate builds a tree of small values for each reply. With hundreds of entries in a reply that takes longer
//! than the server needs to collect them. Rare requests use the crate.

use std::{io, path::Path, sync::Arc, time::Duration};

use redis::{ConnectionAddr, ConnectionInfo};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    errors::{NO_REPLY, error_reply},
    resp::{BUFFER_BYTES, Commands, Replies, Scanner},
};
use tickhound_core::stream::StreamError;

/// The least room to receive into: small enough for a quiet market, and it grows with the replies.
const ROOM: usize = 64 * 1024;

/// The most bytes of a reply with several entries, four times what a read is sized for. The server can't be asked how large
/// entries are, so hundreds of huge ones behind small ones would be received at once. A read that is given up ends its
/// connection: what it has read is pending, and is read again a few entries at a time. A single entry may have any size.
const SEVERAL_BYTES_MAX: usize = 64 << 20;

/// The address of a server, and how to connect to it.
#[derive(Clone)]
pub(super) struct Address {
    info: ConnectionInfo,
    tls: Option<Arc<rustls::ClientConfig>>,
    /// Limits the time between two parts of a reply.
    timeout: Duration,
}

/// A connection that one task uses.
pub(super) struct Wire {
    io: Box<dyn Io>,
    received: Vec<u8>,
    timeout: Duration,
}

/// What was received.
enum Received<'a> {
    /// All replies.
    Whole(Replies<'a>),
    /// The beginning of replies that are larger than they may be.
    TooLarge,
}

trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

impl Address {
    pub(super) fn new(info: ConnectionInfo, tls: Option<Arc<rustls::ClientConfig>>, timeout: Duration) -> Self {
        Self { info, tls, timeout }
    }

    /// The same server, with another limit for the time between two parts of a reply.
    pub(super) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Connects, authenticates and selects the database.
    ///
    /// # Errors
    /// When the server cannot be reached, or rejects the user.
    pub(super) async fn connect(&self) -> Result<Wire, StreamError> {
        let opened = timeout(self.timeout, self.open()).await.map_err(|_| unavailable(NO_REPLY))?;
        let io = opened.map_err(|error| unavailable(error.to_string()))?;
        let mut wire = Wire { io, received: Vec::new(), timeout: self.timeout };
        let settings = self.info.redis_settings();
        let mut greeting = Commands::default();
        if let Some(password) = settings.password() {
            greeting.arg("AUTH");
            settings.username().into_iter().for_each(|user| {
                greeting.arg(user);
            });
            greeting.arg(password);
            greeting.end();
        }
        if settings.db() != 0 {
            greeting.arg("SELECT").show(settings.db());
            greeting.end();
        }
        let replies = greeting.len();
        let mut replies_left = if replies > 0 { wire.ask(&greeting, 0).await? } else { Replies::new(b"") };
        for _ in 0..replies {
            if let Some(error) = replies_left.skip()? {
                return Err(error_reply(error));
            }
        }
        Ok(wire)
    }

    async fn open(&self) -> io::Result<Box<dyn Io>> {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => Ok(Box::new(tcp(host, *port).await?)),
            ConnectionAddr::TcpTls { host, port, .. } => {
                let config = self.tls.clone().ok_or_else(|| io::Error::other("TLS is not set up"))?;
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                Ok(Box::new(TlsConnector::from(config).connect(name, tcp(host, *port).await?).await?))
            }
            ConnectionAddr::Unix(path) => Ok(Box::new(UnixStream::connect(Path::new(path)).await?)),
            _ => Err(io::Error::other("an unknown kind of address")),
        }
    }
}

/// Connects with Nagle's algorithm off: every request is one small write that must not wait.
async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Wire {
    /// Sends commands. Their replies must be received before other commands are sent.
    pub(super) async fn send(&mut self, commands: &Commands) -> Result<(), StreamError> {
        let mut left = commands.bytes();
        while !left.is_empty() {
            let written = within(self.timeout, self.io.write(left)).await?;
            if written == 0 {
                return Err(unavailable("the server hung up"));
            }
            left = &left[written..];
        }
        within(self.timeout, self.io.flush()).await
    }

    /// Receives the replies to this number of commands, with at most so many entries in them.
    pub(super) async fn receive(&mut self, replies: usize, entries: usize) -> Result<Replies<'_>, StreamError> {
        let bytes_max = if entries > 1 { SEVERAL_BYTES_MAX } else { usize::MAX };
        match self.receive_within(replies, bytes_max).await? {
            Received::Whole(replies) => Ok(replies),
            Received::TooLarge => {
                let mib = SEVERAL_BYTES_MAX >> 20;
                Err(StreamError::TooLarge(format!("entries of more than {mib} MiB in one read; reading fewer at once")))
            }
        }
    }

    /// Receives the replies to this number of commands, unless they have more bytes than this. After that, the connection
    /// can't be used.
    async fn receive_within(&mut self, replies: usize, bytes_max: usize) -> Result<Received<'_>, StreamError> {
        let Self { io, received, timeout } = self;
        received.clear();
        // The history that a start reads is far larger than the reply to a step.
        received.shrink_to(BUFFER_BYTES);
        let mut scanner = Scanner::new(replies);
        loop {
            if received.capacity() - received.len() < ROOM / 4 {
                received.reserve(ROOM.max(received.len()));
            }
            // The limit is for each part: large entries on a slow line would exceed a limit for the whole reply at every
            // attempt.
            if within(*timeout, io.read_buf(received)).await? == 0 {
                return Err(unavailable("the server hung up"));
            }
            if received.len() > bytes_max {
                return Ok(Received::TooLarge);
            }
            match scanner.scan(received)? {
                Some(end) if end == received.len() => return Ok(Received::Whole(Replies::new(&self.received))),
                Some(_) => return Err(unavailable("the server sent more replies than there were commands")),
                None => {}
            }
        }
    }

    /// Sends commands and returns their replies as they were received, or `None` if they have more bytes than this. After
    /// that, the connection can't be used.
    pub(super) async fn ask_within(
        &mut self,
        commands: &Commands,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, StreamError> {
        self.send(commands).await?;
        Ok(match self.receive_within(commands.len(), bytes_max).await? {
            Received::Whole(_) => Some(std::mem::take(&mut self.received)),
            Received::TooLarge => None,
        })
    }

    /// Sends commands and receives their replies, with at most so many entries in them.
    pub(super) async fn ask(&mut self, commands: &Commands, entries: usize) -> Result<Replies<'_>, StreamError> {
        self.send(commands).await?;
        self.receive(commands.len(), entries).await
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> Result<T, StreamError> {
    let done = timeout(limit, work).await.map_err(|_| unavailable(NO_REPLY))?;
    done.map_err(|error| unavailable(error.to_string()))
}

fn unavailable(what: impl Into<String>) -> StreamError {
    StreamError::Unavailable(what.into())
}
