//! The HTTP server of a running host: the dashboard, the API, and the metrics.
//!
//! What holds: the server never slows the engine down. It has a thread and a runtime of its own with a lower priority
//! than the workers. Connections, concurrent requests, and the time of each request are bounded, and the server takes
//! no lock that the engine needs for long. A host runs without it while the port is in use by another program.

mod alerts;
mod api;
mod app;
mod chart;
mod error;
mod guard;
mod live;
mod metrics;
mod page;
mod query;

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use axum::{Router, middleware, routing::get};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tracing::{debug, info, warn};

use self::{app::App, error::ApiError};
use tickhound_core::config::ServerConfig;
use tickhound_engine::plugin::runtime::BACKGROUND_NICE;

/// The most concurrent connections. A browser opens six.
const CONNECTIONS_MAX: usize = 64;

/// A client that takes longer to send the head of a request is disconnected.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// A client that acknowledges nothing of a response for this long is disconnected: it is asleep, or malicious.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause between two attempts to bind a port that is in use.
const BIND_EVERY: Duration = Duration::from_secs(5);

/// How long open requests may take when the run has ended.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(300);

pub(crate) use self::app::ServerContext;

/// A running server. It ends when it is dropped, and so do open streams.
pub(crate) struct Server {
    stop: watch::Sender<bool>,
    ended: std::sync::mpsc::Receiver<()>,
}

impl Server {
    /// Starts a server in the background. Returns `None` if the configuration disables it.
    ///
    /// # Errors
    /// When the system can't start another thread.
    pub(crate) fn start(config: &ServerConfig, served: ServerContext) -> Result<Option<Self>> {
        let Some(address) = config.address() else { return Ok(None) };
        let (stop, stopped) = watch::channel(false);
        let (ends, ended) = std::sync::mpsc::channel();
        let app = Arc::new(App::new(config, served, stopped.clone())?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start the server's runtime")?;
        thread::Builder::new()
            .name("server".into())
            .spawn(move || {
                // On Linux, the niceness is that of this thread and of the threads that it starts.
                let _ = rustix::process::nice(BACKGROUND_NICE);
                runtime.block_on(serve(address, app, stopped));
                runtime.shutdown_background();
                drop(ends);
            })
            .context("failed to start the server's thread")?;
        Ok(Some(Self { stop, ended }))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let _ = self.ended.recv_timeout(2 * SHUTDOWN_TIMEOUT);
    }
}

fn router(app: Arc<App>) -> Router {
    let routes = Router::new()
        .route("/healthz", get(api::healthz))
        .route("/readyz", get(api::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/api/openapi.json", get(api::openapi))
        .route("/api/status", get(api::status))
        .route("/api/history", get(api::history))
        .route("/api/detectors", get(api::detectors))
        .route("/api/alerts", get(alerts::list))
        .route("/api/alerts/live", get(live::live))
        .route("/api/chart", get(chart::chart));
    page::routes(routes)
        .fallback(|| async { ApiError::not_found() })
        .layer(middleware::from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}

async fn serve(address: SocketAddr, app: Arc<App>, mut stopped: watch::Receiver<bool>) {
    let sampler = tokio::spawn(app::sample(app.clone()));
    tokio::select! {
        // Cancelling it closes the listener; each open connection has a task of its own.
        () = accept(address, app) => {}
        // Cancel-safe: it only waits for a value.
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    sampler.abort();
    // Streams end now since they see the stop themselves, and other requests are short.
    let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
    while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn accept(address: SocketAddr, app: Arc<App>) {
    let listener = bind(address).await;
    let router = router(app);
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve_connection(stream, router).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Most likely there are too many open files, and an immediate attempt would fail as well.
                debug!(event = "http_accept_failed", %error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let service = TowerToHyperService::new(router);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        debug!(event = "http_connection_failed", %error, "an HTTP connection ended early");
    }
}

/// Binds the address, as soon as it is free.
async fn bind(address: SocketAddr) -> TcpListener {
    let mut logged = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                info!(event = "http_listening", "serving the page, the API and the metrics at http://{address}/");
                return listener;
            }
            Err(error) => {
                if !std::mem::replace(&mut logged, true) {
                    let why = if error.kind() == std::io::ErrorKind::AddrInUse {
                        "another program uses this port, perhaps another host on this machine"
                    } else {
                        "the system does not allow listening on this address"
                    };
                    warn!(
                        event = "http_address_unavailable",
                        %address,
                        %error,
                        "can't serve the page, the API and the metrics yet: {why}. Configure another address \
                         (server.listen, TICKHOUND_SERVER__LISTEN), or none (\"\"). The host runs without them, and \
                         serves them once the address is free."
                    );
                }
            }
        }
        tokio::time::sleep(BIND_EVERY).await;
    }
}
