//! The dashboard's files. They are in the binary, so the page needs no other host, and no network.
//!
//! Each has an `ETag` and is asked for again at each visit: a browser never shows the page of another version,
//! and gets what it has already as a line.

use std::{
    io::Write,
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};

use super::api::App;

/// Path, media type and contents of a file; scripts and styles are files of their own, since the page's policy
/// allows none inside it.
const FILES: [(&str, &str, &[u8]); 12] = [
    ("/", HTML, include_bytes!("../../assets/dashboard/index.html")),
    ("/assets/style.css", CSS, include_bytes!("../../assets/dashboard/style.css")),
    ("/assets/theme.js", SCRIPT, include_bytes!("../../assets/dashboard/theme.js")),
    ("/assets/main.js", SCRIPT, include_bytes!("../../assets/dashboard/main.js")),
    ("/assets/api.js", SCRIPT, include_bytes!("../../assets/dashboard/api.js")),
    ("/assets/format.js", SCRIPT, include_bytes!("../../assets/dashboard/format.js")),
    ("/assets/verdict.js", SCRIPT, include_bytes!("../../assets/dashboard/verdict.js")),
    ("/assets/charts.js", SCRIPT, include_bytes!("../../assets/dashboard/charts.js")),
    ("/assets/tables.js", SCRIPT, include_bytes!("../../assets/dashboard/tables.js")),
    ("/assets/alerts.js", SCRIPT, include_bytes!("../../assets/dashboard/alerts.js")),
    ("/assets/alert.js", SCRIPT, include_bytes!("../../assets/dashboard/alert.js")),
    ("/assets/echarts.js", SCRIPT, include_bytes!("../../assets/echarts.common.min.js")),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What is answered for a file.
struct File {
    kind: &'static str,
    tag: String,
    plain: &'static [u8],
    /// The charts are half a megabyte else, which a phone notices.
    packed: Vec<u8>,
}

/// Packed when the first visitor comes: a host without any has no work with it.
static PACKED: LazyLock<Vec<File>> = LazyLock::new(|| FILES.iter().map(File::new).collect());

/// Whether it is one of them. They hold no data, so nobody needs a token for them.
pub(super) fn has(path: &str) -> bool {
    FILES.iter().any(|(known, ..)| *known == path)
}

/// Adds the page at `/`, and what it is made of.
pub(super) fn routes(router: Router<Arc<App>>) -> Router<Arc<App>> {
    FILES.iter().enumerate().fold(router, |router, (number, (path, ..))| {
        router.route(path, get(move |headers: HeaderMap| async move { PACKED[number].answer(&headers) }))
    })
}

impl File {
    fn new((_, kind, plain): &(&'static str, &'static str, &'static [u8])) -> Self {
        let digest = Sha256::digest(plain);
        let tag = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        // Writing to memory does not fail; if it did, the file would go as it is.
        let packed = packer.write_all(plain).and_then(|()| packer.finish()).unwrap_or_default();
        Self { kind, tag: format!("\"{tag}\""), plain, packed }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let of = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let always =
            [(header::ETAG, self.tag.as_str()), (header::CACHE_CONTROL, "no-cache"), (header::VARY, "accept-encoding")];
        if of(header::IF_NONE_MATCH).split(',').any(|tag| tag.trim().trim_start_matches("W/") == self.tag) {
            return (StatusCode::NOT_MODIFIED, always).into_response();
        }
        let kind = [(header::CONTENT_TYPE, self.kind)];
        if of(header::ACCEPT_ENCODING).contains("gzip") && !self.packed.is_empty() {
            return (always, kind, [(header::CONTENT_ENCODING, "gzip")], self.packed.clone()).into_response();
        }
        (always, kind, self.plain).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_packed_or_plain_and_once() {
        let file = File::new(&FILES[1]);
        let plain = file.answer(&HeaderMap::new());
        assert_eq!(plain.headers()[header::CONTENT_TYPE], CSS);
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
        let asked = |name, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            file.answer(&headers)
        };
        assert_eq!(asked(header::ACCEPT_ENCODING, "br, gzip").headers()[header::CONTENT_ENCODING], "gzip");
        let again = asked(header::IF_NONE_MATCH, plain.headers()[header::ETAG].to_str().unwrap());
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(asked(header::IF_NONE_MATCH, "\"another\"").status(), StatusCode::OK);
    }

    /// Every file that the page or a script names is served, and nothing is asked of another host.
    #[test]
    fn the_page_is_complete() {
        for (path, kind, contents) in FILES.iter().filter(|(path, ..)| !path.contains("echarts")) {
            let text = std::str::from_utf8(contents).unwrap();
            for (before, folder) in [("src=\"", "/"), ("href=\"", "/"), ("from \"./", "/assets/")] {
                for part in text.split(before).skip(1).filter(|part| !part.starts_with("data:")) {
                    let named = format!("{folder}{}", part.split('"').next().unwrap());
                    assert!(FILES.iter().any(|(path, ..)| *path == named), "{path} ({kind}) names {named}");
                }
            }
            // The namespace of SVG is a name, not an address.
            assert!(!text.replace("http://www.w3.org/2000/svg", "").contains("://"), "{path}");
        }
    }
}
