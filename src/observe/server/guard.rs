//! Before and after each request: who may ask, how many at once, for how long; and what a browser may do with the answer.

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

/// Requests at once, open streams apart. More only makes each slower: there is one thread.
pub(super) const REQUESTS_MAX: usize = 16;

/// No answer takes longer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// What a browser may do with our pages: run our own scripts, ask our own API, and nothing else. Charts
/// set styles of single elements, which can't run anything.
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

/// Whether the request brought the token, if there is one.
#[derive(Clone, Copy)]
pub(super) struct Trusted(pub(super) bool);

/// The digest of a token: all have one length, so that comparing tells nothing.
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
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "nothing can be changed here: GET and HEAD only"));
    }
    if app.loopback && !names_loopback(&request) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "the Host header names another machine; ask for 127.0.0.1 or localhost, or set server.token and listen on \
             another address",
        ));
    }
    let trusted = app.token.is_none_or(|token| brings(request.headers(), &token));
    let path = request.uri().path().to_owned();
    let path = path.as_str();
    if !trusted && !page::has(path) && path != "/healthz" && path != "/readyz" {
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "send `Authorization: Bearer` with the token of server.token; in a browser, open /#token=…",
        ));
    }
    request.extensions_mut().insert(Trusted(trusted));
    // Who asks whether the process works, and would end it, is answered however busy it is.
    if path == "/healthz" {
        return Ok(next.run(request).await);
    }
    let Ok(_permit) = app.free.try_acquire() else {
        return Err(ApiError::unavailable(format!("more than {REQUESTS_MAX} requests at once; try again")));
    };
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    answer.map_err(|_| ApiError::unavailable(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())))
}

/// Else another site could have its name lead to this machine, and its scripts read the answers.
fn names_loopback(request: &Request) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    // A request may also name the host in its first line.
    let host = request.uri().host().or(host).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn brings(headers: &HeaderMap, token: &[u8; 32]) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    given.is_some_and(|(_, given)| digest(given.trim()).ct_eq(token).into())
}
