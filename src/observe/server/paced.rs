//! A connection whose client must keep reading.
//!
//! What holds: a client for which the server waits gets 30 s in all, and earns more by reading. So a client that does
//! not read, or reads a byte now and then, loses its connection, and with it whatever it occupies, in the system too.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::clients::BusyMarker;

/// The longest time for which the server waits for a client that reads nothing.
const STALL_MAX: Duration = Duration::from_secs(30);

/// A client that reads more slowly than this, bytes a second, while the server waits for it, is disconnected in the end.
/// The slowest mobile connections are several times as fast.
const RATE_MIN: f64 = 4096.0;

/// A TCP connection whose writes fail once its client has used up its time.
pub(super) struct PacedStream {
    stream: TcpStream,
    credit: Credit,
    /// Wakes the task when the time is used up; allocated once.
    timer: Pin<Box<Sleep>>,
    cut: Cut,
    busy: BusyMarker,
}

/// Whether a connection is cut when it is dropped: the system forgets what the client has not read yet. By itself it
/// would go on for long to offer that, and keep it in memory.
#[derive(Clone, Default)]
pub(super) struct Cut(Arc<AtomicBool>);

impl Cut {
    /// From now on, the connection is cut when it is dropped.
    pub(super) fn order(&self) {
        self.0.store(true, Relaxed);
    }
}

/// The time that a client has left.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Credit {
    /// The server does not wait for the client. It had `left` at `since`, and more by now.
    Resting { left: Duration, since: Instant },
    /// The server waits, and will not after that time.
    Running { until: Instant },
}

impl Credit {
    /// The server has to wait. Returns until when.
    fn wait(&mut self, now: Instant) -> Instant {
        let until = match *self {
            Self::Resting { left, since } => now + (left + now.saturating_duration_since(since)).min(STALL_MAX),
            Self::Running { until } => until,
        };
        *self = Self::Running { until };
        until
    }

    /// The system has taken bytes of the answer, since the client has read earlier ones.
    fn earn(&mut self, bytes: usize, now: Instant) {
        let earned = Duration::from_secs_f64(bytes as f64 / RATE_MIN);
        match self {
            Self::Resting { left, .. } => *left = (*left + earned).min(STALL_MAX),
            Self::Running { until } => *until = (*until + earned).min(now + STALL_MAX),
        }
    }

    /// Nothing is left to write.
    fn rest(&mut self, now: Instant) {
        if let Self::Running { until } = *self {
            *self = Self::Resting { left: until.saturating_duration_since(now), since: now };
        }
    }
}

impl PacedStream {
    pub(super) fn new(stream: TcpStream, cut: Cut, busy: BusyMarker) -> Self {
        let now = Instant::now();
        let credit = Credit::Resting { left: STALL_MAX, since: now };
        Self { stream, credit, timer: Box::pin(sleep_until(now)), cut, busy }
    }

    fn pace(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => self.credit.earn(bytes, Instant::now()),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let until = self.credit.wait(Instant::now());
                if self.timer.deadline() != until {
                    self.timer.as_mut().reset(until);
                }
                if self.timer.as_mut().poll(context).is_ready() {
                    self.cut.order();
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")));
                }
            }
        }
        written
    }
}

impl AsyncRead for PacedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PacedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.pace(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.pace(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Hyper flushes once it has written all that it has.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.credit.rest(Instant::now());
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.busy.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for PacedStream {
    fn drop(&mut self) {
        if self.cut.0.load(Relaxed) {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a client keeps its connection that always has the server wait, and reads `bytes` every second.
    fn lasts(bytes: usize) -> Option<u64> {
        let start = Instant::now();
        let mut credit = Credit::Resting { left: STALL_MAX, since: start };
        (0..10_000).find(|second| {
            let now = start + Duration::from_secs(*second);
            // It is flushed in between, as a stream of events is.
            credit.earn(bytes, now);
            credit.rest(now);
            credit.wait(now) <= now
        })
    }

    #[test]
    fn a_client_that_reads_too_slowly_runs_out_of_time() {
        assert_eq!(lasts(0), Some(30));
        assert!(lasts(100).is_some_and(|seconds| seconds < 35));
        assert!(lasts(2048).is_some_and(|seconds| seconds < 70));
        assert_eq!(lasts(4096), None);
        assert_eq!(lasts(1_000_000), None);
    }

    #[test]
    fn time_comes_back_while_the_server_does_not_wait() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut credit = Credit::Resting { left: STALL_MAX, since: start };
        assert_eq!(credit.wait(at(100)), at(130), "never more than the limit");
        assert_eq!(credit.wait(at(120)), at(130), "it runs on");
        credit.rest(at(125));
        assert_eq!(credit.wait(at(125)), at(130));
        credit.rest(at(128));
        assert_eq!(credit.wait(at(138)), at(150), "2 s were left, and 10 s have passed");
    }
}
