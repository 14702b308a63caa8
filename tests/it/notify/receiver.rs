//! A receiver of webhooks that answers as the test wants, or does not answer.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

use serde_json::Value;
use tickhound_core::event::EntryId;

use crate::support::{pause, wait_for};

/// What it does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Status, headers with their line ends, body.
    Answer(u16, &'static str, &'static str),
    /// All is well, but it takes a while to say so.
    Late,
    /// Takes the request and says nothing.
    Hang,
    /// Hangs up before it has read anything.
    Close,
    /// Reads the request and resets the connection.
    Reset,
    /// Answers with something that is not HTTP.
    Garbage,
    /// 200 and a body without an end.
    Endless,
    /// 200, one byte at a time.
    Drip,
    /// 500 and a body without an end.
    Flood,
    /// 200 and headers without an end.
    Heads,
}

pub const OK: How = How::Answer(200, "", "ok");

#[derive(Clone)]
pub struct Request {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
    pub how: How,
}

impl Request {
    /// Ids of the alerts in the body of a generic webhook.
    pub fn ids(&self) -> Vec<String> {
        self.body["alerts"].as_array().unwrap().iter().map(|alert| alert["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Where alerts lie of which it says that they may not have been told: after the first of these, up to the second.
    pub fn in_doubt(&self) -> Option<[EntryId; 2]> {
        let doubt = &self.body["in_doubt"];
        (doubt["count"] != 0).then(|| ["after", "to"].map(|end| doubt[end].as_str().unwrap().parse().unwrap()))
    }

    /// Whether it was told that all is well.
    pub fn arrived(&self) -> bool {
        matches!(self.how, How::Answer(200, ..) | How::Endless | How::Late)
    }
}

#[derive(Default)]
struct Inner {
    script: Mutex<VecDeque<How>>,
    got: Mutex<Vec<Request>>,
    connections: Mutex<u64>,
    held: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
}

pub struct Receiver {
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

impl Receiver {
    pub fn start() -> Self {
        Self::at("127.0.0.1:0")
    }

    pub fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let receiver = Self { address: listener.local_addr().unwrap(), inner: Arc::default() };
        let inner = receiver.inner.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let inner = inner.clone();
                if inner.ended.load(SeqCst) {
                    return;
                }
                thread::spawn(move || drop(inner.serve(stream.unwrap())));
            }
        });
        receiver
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// What it does next, one for each connection; afterwards all is well.
    pub fn will(&self, script: &[How]) {
        self.inner.script.lock().unwrap().extend(script);
    }

    /// Whether everything that it was to do is done.
    pub fn is_done(&self) -> bool {
        self.inner.script.lock().unwrap().is_empty()
    }

    pub fn got(&self) -> Vec<Request> {
        self.inner.got.lock().unwrap().clone()
    }

    pub fn connections(&self) -> u64 {
        *self.inner.connections.lock().unwrap()
    }

    pub fn wait_for(&self, what: &str, fits: impl Fn(&Request) -> bool) -> Request {
        wait_for(what, || self.got().into_iter().find(|request| request.arrived() && fits(request)))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.inner.ended.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Inner {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        *self.connections.lock().unwrap() += 1;
        let how = self.script.lock().unwrap().pop_front().unwrap_or(OK);
        if how == How::Close {
            return Ok(());
        }
        if how == How::Reset {
            // What was not read makes the kernel reset the connection.
            return stream.read_exact(&mut [0; 20]);
        }
        self.got.lock().unwrap().push(read_request(&mut stream, how)?);
        match how {
            How::Answer(status, headers, body) => {
                let length = body.len();
                write!(stream, "HTTP/1.1 {status} As Told\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
            }
            How::Late => {
                (0..8).for_each(|_| pause());
                write!(stream, "HTTP/1.1 204 No Content\r\n\r\n")
            }
            How::Hang => {
                self.held.lock().unwrap().push(stream);
                Ok(())
            }
            How::Garbage => write!(stream, "I am no HTTP\r\n\r\n"),
            How::Endless => {
                write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                // Until nobody reads any more.
                loop {
                    write!(stream, "400\r\n{}\r\n", "x".repeat(0x400))?;
                }
            }
            How::Drip => {
                write!(stream, "HTTP/1.1 200 OK\r\n")?;
                loop {
                    pause();
                    write!(stream, "X: y\r\n")?;
                }
            }
            How::Flood => {
                write!(stream, "HTTP/1.1 500 No\r\nContent-Length: 1000000000000\r\n\r\n")?;
                loop {
                    stream.write_all(&[b'x'; 0x1_0000])?;
                }
            }
            How::Heads => {
                write!(stream, "HTTP/1.1 200 OK\r\n")?;
                loop {
                    write!(stream, "X-{}: y\r\n", "x".repeat(1000))?;
                }
            }
            How::Close | How::Reset => Ok(()),
        }
    }
}

/// Reads one request with its body.
pub fn read_request(stream: &mut impl Read, how: How) -> std::io::Result<Request> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap();
    Ok(Request { path, headers, body, how })
}
