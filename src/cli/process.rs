//! The process of a command: its runtime, the signals that stop it, and the reader of its output.

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::Interest,
    net::unix::pipe::Sender,
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{info, warn};

use crate::service::LogQueue;

/// The longest wait for the last log lines of a process that exits at once.
pub(super) const LAST_LINES_MAX: Duration = Duration::from_millis(300);

/// A runtime for commands that talk to Redis.
pub(super) fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread()
        // One for the partition's task, one for the timers; guests have threads of their own.
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the async runtime")
}

/// Ready once the command is asked to stop: Ctrl-C, SIGTERM, or a closed terminal.
pub(super) fn stop_requested() -> Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).context("failed to listen for signals");
    let (mut interrupt, mut terminate, mut hang_up) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    Ok(async move {
        tokio::select! {
            // All are cancel-safe.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// Ready once the reader of the output has closed it, as `| head` does. Never ready for a file.
pub(super) async fn output_closed() {
    let pipe = io::stdout().as_fd().try_clone_to_owned().and_then(Sender::from_owned_fd_unchecked);
    // An output that can't be waited for, such as a file, does not close.
    let Ok(pipe) = pipe else { return std::future::pending().await };
    if pipe.ready(Interest::ERROR).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Becomes true at the first SIGTERM or SIGINT; the second ends the process.
pub(super) fn stop_on_signal(log: Option<Arc<LogQueue>>) -> Result<watch::Sender<bool>> {
    let stop = watch::Sender::new(false);
    let listen = |kind| signal(kind).context("failed to listen for signals");
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stopping = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                // Both are cancel-safe.
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stopping.send_replace(true) {
                warn!(
                    event = "stop_forced",
                    "second signal: exiting at once; the entries in flight are processed again at the next start"
                );
                if let Some(log) = &log {
                    log.finish(LAST_LINES_MAX);
                }
                std::process::exit(130);
            }
            info!(event = "host_stopping", "stopping; finishing the entries in flight");
        }
    });
    Ok(stop)
}
