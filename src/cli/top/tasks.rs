//! The tasks behind the screen: one observes the partition, one follows its alerts.
//!
//! What holds: both continue by themselves when the server is back. While the screen does not fetch the alerts, the
//! second task waits, so that no queue grows and no alert is skipped.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{overview::Overview, state::State};
use crate::observe::health::HealthObserver;
use tickhound_core::config::Config;
use tickhound_redis::{AlertsReader, News};

/// The time from one observation to the next.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);

/// Alerts that are shown at the start.
const ALERTS_AT_START: usize = 500;

/// Both tasks, and what they send.
pub(super) struct Tasks {
    overviews: watch::Receiver<Overview>,
    alerts: mpsc::Receiver<News>,
    running: [JoinHandle<()>; 2],
}

impl Tasks {
    /// Starts both on the current runtime.
    ///
    /// # Errors
    /// When the URL can't be used.
    pub(super) fn start(config: &Config) -> Result<Self> {
        let reader = AlertsReader::new(&config.stream, &config.alerts.stream)?;
        let (overview, overviews) = watch::channel(Overview::default());
        let (news, alerts) = mpsc::channel(2);
        let running =
            [tokio::spawn(observe(HealthObserver::new(config), overview)), tokio::spawn(follow(reader, news))];
        Ok(Self { overviews, alerts, running })
    }

    /// Delivers new results to the screen, unless it is paused; returns whether there were any.
    ///
    /// # Errors
    /// A task has ended, which happens only if it panics.
    pub(super) fn deliver(&mut self, state: &mut State) -> Result<bool> {
        if self.running.iter().any(JoinHandle::is_finished) {
            bail!("a task has ended unexpectedly; please report this");
        }
        let mut any = false;
        if state.is_paused() {
            return Ok(any);
        }
        if self.overviews.has_changed().unwrap_or(false) {
            state.overview = self.overviews.borrow_and_update().clone();
            any = true;
        }
        while let Ok(news) = self.alerts.try_recv() {
            state.add(news);
            any = true;
        }
        Ok(any)
    }
}

async fn observe(mut observer: HealthObserver, overview: watch::Sender<Overview>) {
    let mut timer = interval(OBSERVE_EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let (report, pace) = observer.observe().await;
        overview.send_modify(|overview| overview.add(report, pace));
    }
}

async fn follow(mut reader: AlertsReader, alerts: mpsc::Sender<News>) {
    let newest = loop {
        match reader.newest(ALERTS_AT_START, |_| true).await {
            Ok(newest) => break newest,
            // The other task reports that the server can't be reached.
            Err(_) => sleep(OBSERVE_EVERY).await,
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
                sleep(OBSERVE_EVERY).await;
                false
            }
        };
        if at_end && reader.wait().await.is_err() {
            sleep(OBSERVE_EVERY).await;
        }
    }
}
