//! Adds simulated ticks, a few of them spoiled, each once: an id that was sent when the server died
//! is sent again, and rejected if it had come through.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use redis::Connection;
use tickhound_core::simulate::{Layout, Renderer, SimConfig, Simulator};

use crate::support::{STREAM, now_ms, pause, wait_for};

/// Entries added at once, about every 10 ms.
const FED_AT_ONCE: usize = 30;

/// From the open of a session until a quarter of an hour before its close, so that bars, snapshots and columns of a run
/// see the end of a session and the begin of the next one.
const BEFORE_CLOSE_S: u64 = 6 * 3600;

pub struct Feeder {
    stop: Arc<AtomicBool>,
    held: Arc<AtomicBool>,
    pub fed: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Feeder {
    /// Feeds the server at this URL.
    pub fn start(url: String, seed: u64) -> Self {
        let (stop, held, fed) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default(), Arc::default());
        let (stopped, holds, count) = (stop.clone(), held.clone(), Arc::<AtomicU64>::clone(&fed));
        let thread = thread::spawn(move || {
            let config = SimConfig::default();
            let start = config.start + BEFORE_CLOSE_S * 1_000_000_000;
            let config = SimConfig { symbols: 12, seed, dirt: 0.01, start, ..config };
            let mut simulator = Simulator::new(&config);
            let mut renderer = Renderer::new(Layout::Json);
            let mut connection = None;
            while !stopped.load(Relaxed) {
                pause();
                if holds.load(Relaxed) {
                    continue;
                }
                let mut entries = redis::pipe();
                for _ in 0..FED_AT_ONCE {
                    let tick = simulator.next().unwrap();
                    let instrument = &simulator.instruments()[tick.instrument as usize];
                    let number = count.fetch_add(1, Relaxed);
                    // Time goes up, and the number tells entries of one millisecond apart.
                    entries.cmd("XADD").arg(STREAM).arg(format!("{}-{number}", now_ms()));
                    renderer.render(instrument, &tick, |name, value| {
                        entries.arg(name).arg(value);
                    });
                }
                if connection.as_mut().is_none_or(|open| entries.query::<()>(open).is_err()) {
                    connection = None;
                    for entry in entries.cmd_iter() {
                        wait_for("an entry is taken", || add(&url, &mut connection, entry));
                    }
                }
            }
        });
        Self { stop, held, fed, thread }
    }

    /// Adds nothing for a while.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Relaxed);
    }

    /// How many entries were added in all.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap();
        self.fed.load(Relaxed)
    }
}

fn add(url: &str, connection: &mut Option<Connection>, entry: &redis::Cmd) -> Option<()> {
    if connection.is_none() {
        *connection = redis::Client::open(url).unwrap().get_connection().ok();
    }
    match entry.query::<()>(connection.as_mut()?) {
        Ok(()) => Some(()),
        Err(error) if error.to_string().contains("equal or smaller") => Some(()),
        Err(_) => {
            *connection = None;
            None
        }
    }
}
