//! The tasks behind the screen: one looks at the partition, one follows its alerts.
//!
//! What holds: they go on by themselves when the server is back; and while nobody takes what the second
//! one has read, it waits, so that nothing grows and nothing is left out.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};

use super::state::State;
use crate::observe::health::{Pace, Report, Watch};
use tickhound_core::config::Config;
use tickhound_redis::{AlertsReader, News};

/// Time from one look to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks that are kept for the curves: as many as a very wide terminal has columns.
const SAMPLES: usize = 400;

/// Alerts that are there from the beginning.
const ALERTS_AT_START: usize = 500;

/// What is known of the partition.
#[derive(Clone, Default)]
pub(super) struct Look {
    /// The newest report that found something, and when that was.
    pub(super) known: Option<(Arc<Report>, Instant)>,
    /// Why the server can't be asked, and since when.
    pub(super) problem: Option<(String, Instant)>,
    /// Between the last two looks.
    pub(super) pace: Option<Pace>,
    /// A look each, oldest first.
    pub(super) samples: VecDeque<Sample>,
}

/// What one look adds to the curves; `None` where it was not known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// Entries worked in a second.
    pub(super) worked: Option<u64>,
    /// Entries that are not worked yet.
    pub(super) waiting: Option<u64>,
    /// Age of the oldest of them, ms.
    pub(super) behind_ms: Option<u64>,
}

impl Look {
    pub(super) fn add(&mut self, report: Report, pace: Option<Pace>) {
        let mut sample = Sample::default();
        self.pace = pace;
        match &report.survey {
            Some(survey) => {
                sample.worked = pace.map(|pace| pace.entries_per_s.round() as u64);
                sample.waiting = survey.waiting;
                sample.behind_ms = Some(survey.behind_ms.unwrap_or(0));
                self.problem = None;
                self.known = Some((Arc::new(report), Instant::now()));
            }
            None => {
                let since = self.problem.as_ref().map_or_else(Instant::now, |(_, since)| *since);
                self.problem = Some((report.reason, since));
            }
        }
        self.samples.push_back(sample);
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }
}

/// Both tasks, and what they send.
pub(super) struct Tasks {
    looks: watch::Receiver<Look>,
    alerts: mpsc::Receiver<News>,
    running: [JoinHandle<()>; 2],
}

impl Tasks {
    /// Starts them on the current runtime.
    ///
    /// # Errors
    /// When the URL is none that can be used.
    pub(super) fn start(config: &Config) -> Result<Self> {
        let reader = AlertsReader::new(&config.stream, &config.alerts.stream)?;
        let (looked, looks) = watch::channel(Look::default());
        let (news, alerts) = mpsc::channel(2);
        let running = [tokio::spawn(look(Watch::new(config), looked)), tokio::spawn(follow(reader, news))];
        Ok(Self { looks, alerts, running })
    }

    /// Hands over what is new, unless the screen is paused; whether there was anything.
    ///
    /// # Errors
    /// A task has ended, which none does unless it panics.
    pub(super) fn deliver(&mut self, state: &mut State) -> Result<bool> {
        if self.running.iter().any(JoinHandle::is_finished) {
            bail!("a task has ended unexpectedly; please report this");
        }
        let mut any = false;
        if state.is_paused() {
            return Ok(any);
        }
        if self.looks.has_changed().unwrap_or(false) {
            state.look = self.looks.borrow_and_update().clone();
            any = true;
        }
        while let Ok(news) = self.alerts.try_recv() {
            state.add(news);
            any = true;
        }
        Ok(any)
    }
}

async fn look(mut watch: Watch, looked: watch::Sender<Look>) {
    let mut timer = interval(LOOK_EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let (report, pace) = watch.look().await;
        looked.send_modify(|look| look.add(report, pace));
    }
}

async fn follow(mut reader: AlertsReader, alerts: mpsc::Sender<News>) {
    let newest = loop {
        match reader.newest(ALERTS_AT_START, |_| true).await {
            Ok(newest) => break newest,
            // That the server can't be reached, the other task tells.
            Err(_) => sleep(LOOK_EVERY).await,
        }
    };
    if alerts.send(News { alerts: newest, ..News::default() }).await.is_err() {
        return;
    }
    loop {
        let at_end = match reader.read().await {
            Ok(news) => {
                let at_end = news.at_end;
                if alerts.send(news).await.is_err() {
                    return;
                }
                at_end
            }
            Err(_) => {
                sleep(LOOK_EVERY).await;
                false
            }
        };
        if at_end && reader.wait().await.is_err() {
            sleep(LOOK_EVERY).await;
        }
    }
}
