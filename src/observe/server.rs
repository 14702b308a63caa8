//! What a running host shows over HTTP: the page, the API, the metrics.
//!
//! What holds: it never disturbs the flow. It has a thread and a runtime of its own, which give way to
//! the workers; connections, requests at once, and the time of each are bounded; nothing it does takes
//! a lock that the engine holds for long. A run goes on without it if its port is taken.

mod alerts;
mod api;
mod chart;
mod error;
mod guard;
mod live;
mod metrics;
mod page;

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

use self::{api::App, error::ApiError};
use tickhound_core::config::ServerConfig;
use tickhound_engine::plugin::runtime::BACKGROUND_NICE;

/// Connections at once. A browser opens six.
const CONNECTIONS_MAX: usize = 64;

/// A client that needs longer for the head of a request, or sends none, is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// A client that takes nothing of an answer for so long is cut off, asleep or malicious.
#[cfg(target_os = "linux")]
const DEAF_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two attempts to get a port that is taken.
const BIND_EVERY: Duration = Duration::from_secs(5);

/// How long open requests may go on when the run has ended.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

pub(crate) use self::api::Served;

/// A server at work; ends when it is dropped, open streams as well.
pub(crate) struct Server {
    stop: watch::Sender<bool>,
    ended: std::sync::mpsc::Receiver<()>,
}

impl Server {
    /// Serves in the background; `None` if the configuration wants no server.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(config: &ServerConfig, served: Served) -> Result<Option<Self>> {
        let Some(address) = config.address() else { return Ok(None) };
        let (stop, stopped) = watch::channel(false);
        let (ends, ended) = std::sync::mpsc::channel();
        let app = Arc::new(App::new(config, served, stopped.clone())?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start the server's runtime")?;
        thread::Builder::new()
            .name("server".into())
            .spawn(move || {
                // On Linux the niceness is the thread's own, and of those that it starts.
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
        let _ = self.ended.recv_timeout(2 * LAST_ANSWERS);
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
    let sampler = tokio::spawn(api::sample(app.clone()));
    let work = async {
        let listener = bind(address).await;
        let router = router(app);
        let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = free.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let router = router.clone();
                    tokio::spawn(async move {
                        converse(stream, router).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: nothing is gained by trying at once.
                    debug!(event = "http_accept_failed", %error, "failed to accept a connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    sampler.abort();
    // Streams end by themselves now, and other requests are short.
    let ends = Instant::now() + LAST_ANSWERS;
    while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 && Instant::now() < ends {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn converse(stream: TcpStream, router: Router) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(DEAF_TIMEOUT));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let service = TowerToHyperService::new(router);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        debug!(event = "http_connection_failed", %error, "an HTTP connection ended early");
    }
}

/// Listens, as soon as the port is free.
async fn bind(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                info!(event = "http_listening", "serving the page, the API and the metrics at http://{address}/");
                return listener;
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    let taken = error.kind() == std::io::ErrorKind::AddrInUse;
                    let why = if taken {
                        "another program uses this port, perhaps another host on this machine"
                    } else {
                        "the system does not let it listen on this address"
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
