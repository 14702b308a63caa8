//! The HTTP server of a running host: the dashboard, the API, and the metrics.
//!
//! What holds: the server never slows the engine down. It has a thread and a runtime of its own with a lower priority
//! than the workers. Connections, concurrent requests, and the time of each request and of each answer are bounded, for
//! all clients and for each address, and the server takes no lock that the engine needs for long. Health and metrics are
//! answered whatever other clients do. A host runs without it while the port is in use by another program.

mod alerts;
mod api;
mod app;
mod chart;
mod clients;
mod error;
mod guard;
mod live;
mod metrics;
mod mutes;
mod near;
mod near_replays;
mod paced;
mod page;
mod paging;
mod query;
mod shares;

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use axum::{Router, middleware, routing::get};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tracing::{debug, info, warn};

use self::{
    app::App,
    clients::{Connections, Lane, Parting, Place},
    error::ApiError,
    paced::{Cut, PacedStream},
};
use tickhound_core::config::ServerConfig;
use tickhound_engine::plugin::runtime::BACKGROUND_NICE;

/// A client that takes longer to send the head of a request, or its next request, is disconnected.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// The same for connections in reserved places: a probe sends its request at once.
const RESERVED_HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest head of a request, bytes. A browser's has about one kilobyte; cookies of other programs on the same host
/// name, which browsers send to every port, may be some more.
const HEAD_MAX: usize = 64 * 1024;

/// The bytes of an answer that the system keeps for a client that does not read. By itself it would keep several MiB,
/// which count as this process's memory in a container.
const SEND_BUFFER: usize = 256 * 1024;

/// A client that acknowledges nothing of a response for this long is disconnected: it is asleep, or malicious.
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
        let connections = Connections::new(config.connections_per_address);
        let (stop, stopped) = watch::channel(false);
        let (ends, ended) = std::sync::mpsc::channel();
        let app = Arc::new(App::new(config, served, stopped.clone())?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start the server's runtime")?;
        thread::Builder::new()
            .name("server".into())
            .spawn(move || {
                // The niceness is that of this thread and of the threads that it starts.
                let _ = rustix::process::nice(BACKGROUND_NICE);
                runtime.block_on(serve(address, connections, app, stopped));
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
        .route("/api/alert", get(alerts::one))
        .route("/api/alerts/live", get(live::live))
        .route("/api/chart", get(chart::chart))
        .route("/api/near", get(near::near))
        .route("/api/mutes", mutes::routes());
    page::routes(routes)
        .fallback(|| async { ApiError::not_found() })
        .layer(middleware::from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}

async fn serve(address: SocketAddr, connections: Arc<Connections>, app: Arc<App>, mut stopped: watch::Receiver<bool>) {
    let sampler = tokio::spawn(app::sample(app.clone()));
    tokio::select! {
        // Cancelling it closes the listener; each open connection has a task of its own.
        () = accept(address, connections, app) => {}
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

async fn accept(address: SocketAddr, connections: Arc<Connections>, app: Arc<App>) {
    let listener = bind(address).await;
    let router = router(app);
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let place = connections.admit(client.ip());
                tokio::spawn(serve_connection(stream, place, router.clone()));
            }
            Err(error) => {
                // Most likely there are too many open files, and an immediate attempt would fail as well.
                debug!(event = "http_accept_failed", %error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, mut place: Place, router: Router) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).max_buf_size(HEAD_MAX);
    match place.client.lane {
        Lane::General => http.header_read_timeout(HEAD_TIMEOUT),
        Lane::Reserved(_) => http.header_read_timeout(RESERVED_HEAD_TIMEOUT).keep_alive(false),
    };
    let (client, marker, router) = (place.client, place.marker(), TowerToHyperService::new(router));
    let cut = Cut::default();
    let stream = PacedStream::new(stream, cut.clone(), marker.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let busy = marker.begin();
        request.extensions_mut().insert(client);
        let response = router.call(request);
        async move { response.await.map(|response| response.map(|body| busy.until_sent(body))) }
    });
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let displaced = async {
        if place.displaced().await == Parting::Reset {
            cut.order();
        }
    };
    tokio::select! {
        // Cancelling it closes the connection.
        served = connection => {
            if let Err(error) = served {
                debug!(event = "http_connection_failed", %error, "an HTTP connection ended early");
            }
        }
        () = displaced => {
            debug!(event = "http_connection_displaced", "an idle HTTP connection was closed to make room for another");
        }
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
