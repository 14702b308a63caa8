//! The page and its parts, built into the binary. They hold no data, so they are served without a token.

use std::sync::Arc;

use axum::{Router, http::header, routing::get};

use super::api::App;

/// Where, what type, what it holds.
const FILES: [(&str, &str, &str); 1] = [(
    "/",
    "text/html; charset=utf-8",
    "<!doctype html><title>Tickhound</title><p>A Tickhound host. <a href=\"/api/status\">Status</a>, \
     <a href=\"/api/detectors\">detectors</a>, <a href=\"/api/alerts\">alerts</a>, <a href=\"/metrics\">metrics</a>, \
     <a href=\"/api/openapi.json\">API</a>.\n",
)];

/// Whether it is one of them.
pub(super) fn has(path: &str) -> bool {
    FILES.iter().any(|(known, ..)| *known == path)
}

pub(super) fn routes(router: Router<Arc<App>>) -> Router<Arc<App>> {
    FILES.iter().fold(router, |router, (path, kind, text)| {
        router.route(path, get(move || async move { ([(header::CONTENT_TYPE, *kind)], *text) }))
    })
}
