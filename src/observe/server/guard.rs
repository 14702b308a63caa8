//! Limits around each request: who may send one, how many at once, how long each may take, and what a browser may do
//! with the response.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{api::App, error::ApiError, page};

/// The most concurrent requests, without open streams. More would only make each slower, since there is one thread.
pub(super) const REQUESTS_MAX: usize = 16;

/// The longest time that a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

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

/// Returns the digest of a token. All digests have the same length, so the time of a comparison reveals nothing.
pub(super) fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = match admit(&app, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    let status = response.status();
    let headers = response.headers_mut();
    headers.extend(HEADERS);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    match status {
        StatusCode::UNAUTHORIZED => drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        StatusCode::METHOD_NOT_ALLOWED => drop(headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"))),
        _ => {}
    }
    response
}

async fn admit(app: &App, mut request: Request, next: Next) -> Result<Response, ApiError> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "the API is read-only: use GET or HEAD"));
    }
    if app.loopback && !names_loopback(&request) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "the Host header names another machine; use 127.0.0.1 or localhost in the URL, or set server.token and \
             listen on another address",
        ));
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
    // A supervisor kills a process that does not answer this request, so no limit applies to it.
    if path == "/healthz" {
        return Ok(next.run(request).await);
    }
    let Ok(_permit) = app.free.try_acquire() else {
        return Err(ApiError::unavailable(format!(
            "there are more than {REQUESTS_MAX} concurrent requests; try again"
        )));
    };
    let response = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    response.map_err(|_| ApiError::unavailable(format!("the request took longer than {} s", REQUEST_TIMEOUT.as_secs())))
}

/// Whether the request names this machine. Otherwise another web site could have its name resolve to this machine, and
/// its scripts could read the responses (DNS rebinding).
fn names_loopback(request: &Request) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    // A request may name the host in its first line instead.
    let host = request.uri().host().or(host).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn has_token(headers: &HeaderMap, token: &[u8; 32]) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    given.is_some_and(|(_, given)| digest(given.trim()).ct_eq(token).into())
}
