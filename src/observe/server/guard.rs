//! Limits around each request: who may send one, how many at once, how long each may take, and what a browser may do
//! with the response.
//!
//! What holds: another web site can neither read an answer nor have this host work, whatever name it gives this machine;
//! and health and metrics are answered however many other requests there are.

use std::{net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq;
use tickhound_core::config::ServerConfig;

use super::{
    app::{App, digest},
    clients::{Client, Lane},
    error::ApiError,
    page,
};

/// The longest time that a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest path with its parameters, bytes. The longest that makes sense names a detector and a symbol.
const TARGET_MAX: usize = 8 * 1024;

/// What supervisors, load balancers and Prometheus ask for. It is answered in reserved places too, and needs no permit: a
/// supervisor kills a process that does not answer.
const MONITORING: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// What a link on another web site, such as a wiki or a dashboard, may open. None of it takes long.
const LINKED: [&str; 5] = ["/", "/healthz", "/readyz", "/metrics", "/api/openapi.json"];

/// The only path whose requests may change something: what notification channels leave out.
pub(super) const CHANGING: &str = "/api/mutes";

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The headers that limit what a browser may do with our pages: run our scripts, call our API, and nothing else.
/// Inline styles of single elements are allowed, since the charts need them and they can't run anything.
const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; connect-src \
             'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// Whether the request has sent the token, or none is configured.
#[derive(Clone, Copy)]
pub(super) struct Trusted(pub(super) bool);

pub(super) async fn guard(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    request: Request,
    next: Next,
) -> Response {
    let changing = request.uri().path() == CHANGING;
    let mut response = match admit(&app, client, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    let status = response.status();
    let headers = response.headers_mut();
    headers.extend(HEADERS);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    match status {
        StatusCode::UNAUTHORIZED => drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        StatusCode::METHOD_NOT_ALLOWED => {
            let allowed = if changing { "GET, HEAD, POST, DELETE" } else { "GET, HEAD" };
            headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        _ => {}
    }
    response
}

async fn admit(app: &App, client: Client, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let changes = match *request.method() {
        Method::GET | Method::HEAD => false,
        Method::POST | Method::DELETE if request.uri().path() == CHANGING => true,
        _ => {
            let error = format!("the API is read-only, except for POST and DELETE at {CHANGING}: use GET or HEAD");
            return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, error));
        }
    };
    check_target(&request)?;
    if app.loopback {
        check_names_host(&request, app.config.server.public_host())?;
    }
    check_site(&request)?;
    if changes {
        check_change(&request, &app.config.server)?;
    }
    let trusted = app.token.is_none_or(|token| has_token(request.headers(), &token));
    let path = request.uri().path().to_owned();
    let path = path.as_str();
    if !trusted && !page::has(path) && path != "/healthz" && path != "/readyz" {
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "send server.token in the header `Authorization: Bearer`; in a browser, open /#token=…",
        ));
    }
    request.extensions_mut().insert(Trusted(trusted));
    let is_monitoring = MONITORING.contains(&path);
    if let Lane::Reserved(limit) = client.lane
        && !is_monitoring
    {
        let reserved = MONITORING.join(", ");
        return Err(ApiError::unavailable(format!("{limit}; only {reserved} are answered now, try again later")));
    }
    if path == "/healthz" {
        return Ok(next.run(request).await);
    }
    let _permit = if is_monitoring {
        None
    } else {
        let permit = app.requests.take(client.address);
        Some(permit.map_err(|limit| ApiError::exhausted("requests", limit))?)
    };
    let response = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    response.map_err(|_| ApiError::unavailable(format!("the request took longer than {} s", REQUEST_TIMEOUT.as_secs())))
}

/// Checks the length of the request's target and the number of its `Host` headers.
fn check_target(request: &Request) -> Result<(), ApiError> {
    let length = request.uri().path().len() + request.uri().query().map_or(0, str::len);
    if length > TARGET_MAX {
        let error = format!("the path with its parameters has {length} bytes, expected at most {TARGET_MAX}");
        return Err(ApiError::new(StatusCode::URI_TOO_LONG, error));
    }
    // One program on the way might follow the first, and another the last.
    if request.headers().get_all(header::HOST).iter().count() > 1 {
        return Err(ApiError::bad_request("the request has more than one Host header"));
    }
    Ok(())
}

/// Checks that the request names this machine, or the host of `server.public_url`, whose proxy may pass the name on. Otherwise
/// another web site could have its name resolve to this machine, and its scripts could read the responses (DNS rebinding).
fn check_names_host(request: &Request, public_host: Option<&str>) -> Result<(), ApiError> {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    let host = host.map(|host| Authority::from_str(host).ok());
    // A request may name the host in its first line as well.
    let line = request.uri().authority().map(|authority| Some(authority.clone()));
    let mut named = [host, line].into_iter().flatten().peekable();
    if named.peek().is_none() {
        return Err(ApiError::bad_request(
            "the request has no Host header; send one that names 127.0.0.1 or localhost",
        ));
    }
    let is_public = |host: &str| public_host.is_some_and(|public| public.eq_ignore_ascii_case(host));
    let is_ours = |host: &str| is_loopback(host) || is_public(host);
    if named.all(|authority| authority.is_some_and(|authority| names(&authority, is_ours))) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "the Host header names another machine; use 127.0.0.1 or localhost in the URL, or set server.token and \
         listen on another address; if the name is that of a proxy, set server.public_url to its address",
    ))
}

fn is_loopback(host: &str) -> bool {
    let name = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether the authority is a host for which `is_ours` holds, with nothing but a port beside it.
fn names(authority: &Authority, is_ours: impl Fn(&str) -> bool) -> bool {
    let host = authority.host();
    // Neither a user before the host, nor anything but a port behind it.
    let rest = authority.as_str().strip_prefix(host);
    is_ours(host) && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// Refuses what another web site has a browser do: it could not read the answer, but it could have this host work, and
/// use up its listeners. Links to the page, and to what people open by hand, are allowed. Clients that are not browsers don't
/// send these headers.
fn check_site(request: &Request) -> Result<(), ApiError> {
    let is = |name: HeaderName, values: &[&str]| {
        let given = request.headers().get_all(name);
        given.iter().any(|given| values.iter().any(|value| given.as_bytes().eq_ignore_ascii_case(value.as_bytes())))
    };
    // Another port of this machine is another origin of the same site.
    let is_foreign = is(SEC_FETCH_SITE, &["cross-site", "same-site"]);
    let is_link = LINKED.contains(&request.uri().path()) && is(SEC_FETCH_DEST, &["document"]);
    if !is_foreign || is_link {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "another web site has sent this request (Sec-Fetch-Site); open the address in the browser yourself",
    ))
}

/// Refuses a change that another web site may have a browser ask for. What a form or a script of another site may send
/// without asking first has another content type, and browsers say where a request comes from.
fn check_change(request: &Request, server: &ServerConfig) -> Result<(), ApiError> {
    let text = |name: HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let refuse = |error: &str| Err(ApiError::new(StatusCode::FORBIDDEN, error));
    if text(SEC_FETCH_SITE).is_some_and(|site| !site.eq_ignore_ascii_case("same-origin")) {
        return refuse("another web site has sent this request (Sec-Fetch-Site); use the page itself");
    }
    if request.headers().get_all(header::ORIGIN).iter().count() > 1 {
        return Err(ApiError::bad_request("the request has more than one Origin header"));
    }
    if let Some(origin) = text(header::ORIGIN) {
        let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
        let host = text(header::HOST).unwrap_or_default();
        let public = server.public_url.split('/').take(3).collect::<Vec<_>>().join("/");
        let is_ours = !authority.is_empty() && authority.eq_ignore_ascii_case(host);
        let is_public = server.public_host().is_some() && origin.eq_ignore_ascii_case(&public);
        if !(is_ours || is_public) {
            return refuse("another web site has sent this request (Origin); use the page itself");
        }
    }
    let content_type = text(header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if *request.method() == Method::POST && !content_type.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send the header `Content-Type: application/json`",
        ));
    }
    Ok(())
}

fn has_token(headers: &HeaderMap, token: &[u8; 32]) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    given.is_some_and(|(_, given)| digest(given.trim()).ct_eq(token).into())
}
