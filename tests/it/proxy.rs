//! A link between host and server that fails where a test wants it to.
//!
//! It understands the protocol just so far that it can tell requests and replies apart, and which
//! belong together. So a fault comes at an exact point: before a request reaches the server, or when
//! the server has done what it was asked and the host does not know it yet.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread,
};

use tempfile::TempDir;

use crate::support::{Redis, pause, wait_for};

/// How bytes travel.
#[derive(Clone, Copy, PartialEq)]
pub enum Link {
    Whole,
    /// Replies come in pieces of 1 to 7 bytes.
    Crumbs,
    /// Replies take their time.
    Slow,
    /// Replies come in pieces of 16 KiB, each of which takes its time.
    Narrow,
    /// Nothing travels either way. What was sent meanwhile arrives when the link is better, as with TCP.
    Silent,
    /// Requests reach the server, replies do not come back.
    Deaf,
}

/// Where a trap springs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At {
    /// The connection is cut before the request is passed on.
    Request,
    /// The server has answered; the connection is cut before the reply is passed on.
    Reply,
    /// The connection is cut in the middle of the reply.
    MidReply,
    /// The host gets this in place of the reply.
    Instead(&'static [u8]),
}

struct Trap {
    command: &'static str,
    /// Requests of that name to let pass first.
    passing: usize,
    at: At,
    action: Box<dyn FnOnce() + Send>,
    sprung: mpsc::Sender<()>,
}

struct State {
    target: PathBuf,
    link: Link,
    trap: Option<Trap>,
    open: Vec<UnixStream>,
}

pub struct Proxy {
    dir: TempDir,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    pub fn to(redis: &Redis) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("proxy.sock")).unwrap();
        let state = State { target: redis.socket(), link: Link::Whole, trap: None, open: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        thread::spawn(move || {
            for host in listener.incoming().flatten() {
                let target = shared.lock().unwrap().target.clone();
                // Without a server the host finds its connection closed.
                if let Ok(server) = UnixStream::connect(target) {
                    connect(&shared, &host, &server);
                }
            }
        });
        Self { dir, state }
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.dir.path().join("proxy.sock").display())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set(&self, link: Link) {
        self.state().link = link;
    }

    /// Cuts every connection; what is under way is lost.
    pub fn cut(&self) {
        self.state().open.drain(..).for_each(|connection| drop(connection.shutdown(Shutdown::Both)));
    }

    /// From now on all goes to another server.
    pub fn switch(&self, redis: &Redis) {
        self.state().target = redis.socket();
        self.cut();
    }

    /// At the `nth` request of this name from now on `action` is called, and then the fault happens.
    pub fn trap(&self, command: &'static str, nth: usize, at: At, action: impl FnOnce() + Send + 'static) -> Sprung {
        let (sprung, receiver) = mpsc::channel();
        self.state().trap = Some(Trap { command, passing: nth - 1, at, action: Box::new(action), sprung });
        Sprung { what: format!("request {nth} of {command}, {at:?}"), receiver }
    }
}

/// A trap that was set.
pub struct Sprung {
    what: String,
    receiver: mpsc::Receiver<()>,
}

impl Sprung {
    pub fn wait(&self) {
        wait_for(&self.what, || self.receiver.try_recv().ok());
    }
}

/// Which of the requests under way are trapped.
type Expected = Arc<Mutex<VecDeque<Option<Trap>>>>;

fn connect(state: &Arc<Mutex<State>>, host: &UnixStream, server: &UnixStream) {
    let expected = Expected::default();
    let copy = |stream: &UnixStream| stream.try_clone().unwrap();
    state.lock().unwrap().open.extend([copy(host), copy(server)]);
    let (shared, from, to, queue) = (state.clone(), copy(host), copy(server), expected.clone());
    thread::spawn(move || {
        // A connection that ends is not news.
        let _ = requests(&shared, &from, &to, &queue);
        close(&shared, &from, &to, &queue);
    });
    let (shared, from, to) = (state.clone(), copy(server), copy(host));
    thread::spawn(move || {
        let _ = replies(&shared, &from, &to, &expected);
        close(&shared, &from, &to, &expected);
    });
}

fn close(state: &Mutex<State>, one: &UnixStream, other: &UnixStream, expected: &Expected) {
    for stream in [one, other] {
        let _ = stream.shutdown(Shutdown::Both);
    }
    // A trap whose reply never came is set again.
    if let Some(trap) = expected.lock().unwrap().drain(..).find_map(|trap| trap) {
        state.lock().unwrap().trap = Some(trap);
    }
}

fn requests(state: &Mutex<State>, host: &UnixStream, mut server: &UnixStream, expected: &Expected) -> Option<()> {
    let mut arrived = Vec::new();
    loop {
        read_more(host, &mut arrived)?;
        hold(state, &[Link::Silent]);
        let mut whole = 0;
        while let Some(length) = value_length(&arrived[whole..]) {
            let trap = caught(state, &arrived[whole..whole + length]);
            if let Some(Trap { at: At::Request, .. }) = trap {
                // Who cuts every connection meanwhile must not lose the trap.
                let _ = server.write_all(&arrived[..whole]);
                return trap.map(Trap::spring);
            }
            expected.lock().unwrap().push_back(trap);
            whole += length;
        }
        server.write_all(&arrived[..whole]).ok()?;
        arrived.drain(..whole);
    }
}

fn replies(state: &Mutex<State>, server: &UnixStream, host: &UnixStream, expected: &Expected) -> Option<()> {
    let mut arrived = Vec::new();
    loop {
        read_more(server, &mut arrived)?;
        let mut whole = 0;
        while let Some(length) = value_length(&arrived[whole..]) {
            let Some(trap) = expected.lock().unwrap().pop_front().flatten() else {
                whole += length;
                continue;
            };
            deliver(state, host, &arrived[..whole])?;
            match trap.at {
                At::Request | At::Reply => {
                    trap.spring();
                    return None;
                }
                At::MidReply => {
                    deliver(state, host, &arrived[whole..whole + length / 2])?;
                    trap.spring();
                    return None;
                }
                At::Instead(garbage) => {
                    deliver(state, host, garbage)?;
                    trap.spring();
                    arrived.drain(..whole + length);
                    whole = 0;
                }
            }
        }
        deliver(state, host, &arrived[..whole])?;
        arrived.drain(..whole);
    }
}

impl Trap {
    fn spring(self) {
        (self.action)();
        // A test that does not wait for it has other ways to know.
        let _ = self.sprung.send(());
    }
}

/// The trap that was set, if it is this request that it waits for.
fn caught(state: &Mutex<State>, request: &[u8]) -> Option<Trap> {
    let mut state = state.lock().unwrap();
    let waiting = state.trap.as_mut()?;
    // `*3\r\n$3\r\nGET\r\n…`
    let name = request.split(|byte| *byte == b'\n').nth(2)?;
    if !name.trim_ascii_end().eq_ignore_ascii_case(waiting.command.as_bytes()) {
        return None;
    }
    match waiting.passing.checked_sub(1) {
        Some(left) => {
            waiting.passing = left;
            None
        }
        None => state.trap.take(),
    }
}

fn deliver(state: &Mutex<State>, mut host: &UnixStream, bytes: &[u8]) -> Option<()> {
    hold(state, &[Link::Silent, Link::Deaf]);
    let link = state.lock().unwrap().link;
    match link {
        Link::Crumbs => {
            let (mut rest, mut size) = (bytes, 0);
            while !rest.is_empty() {
                size = size % 7 + 1;
                let (crumb, others) = rest.split_at(size.min(rest.len()));
                host.write_all(crumb).ok()?;
                rest = others;
            }
            return Some(());
        }
        Link::Slow => pause(),
        Link::Narrow => {
            for piece in bytes.chunks(16 << 10) {
                pause();
                host.write_all(piece).ok()?;
            }
            return Some(());
        }
        _ => {}
    }
    host.write_all(bytes).ok()
}

fn hold(state: &Mutex<State>, while_in: &[Link]) {
    while while_in.contains(&state.lock().unwrap().link) {
        pause();
    }
}

fn read_more(mut from: &UnixStream, arrived: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 1 << 16];
    let count = from.read(&mut buffer).ok().filter(|count| *count > 0)?;
    arrived.extend_from_slice(&buffer[..count]);
    Some(())
}

/// Length of the first request or reply, once all of it is there.
fn value_length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let after = end + 2;
    let count = || std::str::from_utf8(&bytes[1..end]).unwrap().parse::<i64>().unwrap();
    let length = match bytes[0] {
        b'$' => usize::try_from(count()).map_or(after, |size| after + size + 2),
        b'*' => {
            let mut length = after;
            for _ in 0..count() {
                length += value_length(&bytes[length..])?;
            }
            length
        }
        _ => after,
    };
    (length <= bytes.len()).then_some(length)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Link::Whole);
        self.cut();
    }
}
