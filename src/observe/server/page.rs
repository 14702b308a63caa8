//! The dashboard's files. The binary contains them, so the page works without a network.
//!
//! Each file has an `ETag`, and a browser revalidates it at each visit: it never shows the page of another version,
//! and does not download a file again that it has already.

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

use super::app::App;

/// Every file of the dashboard. Scripts and styles are separate files, since the page's content security policy does
/// not allow them inline.
const FILES: [AssetSource; 16] = [
    AssetSource::new("/", HTML, include_bytes!("../../assets/dashboard/index.html")),
    AssetSource::new("/assets/style.css", CSS, include_bytes!("../../assets/dashboard/style.css")),
    AssetSource::new("/assets/theme.js", SCRIPT, include_bytes!("../../assets/dashboard/theme.js")),
    AssetSource::new("/assets/main.js", SCRIPT, include_bytes!("../../assets/dashboard/main.js")),
    AssetSource::new("/assets/api.js", SCRIPT, include_bytes!("../../assets/dashboard/api.js")),
    AssetSource::new("/assets/format.js", SCRIPT, include_bytes!("../../assets/dashboard/format.js")),
    AssetSource::new("/assets/axis.js", SCRIPT, include_bytes!("../../assets/dashboard/axis.js")),
    AssetSource::new("/assets/visible.js", SCRIPT, include_bytes!("../../assets/dashboard/visible.js")),
    AssetSource::new("/assets/verdict.js", SCRIPT, include_bytes!("../../assets/dashboard/verdict.js")),
    AssetSource::new("/assets/charts.js", SCRIPT, include_bytes!("../../assets/dashboard/charts.js")),
    AssetSource::new("/assets/tables.js", SCRIPT, include_bytes!("../../assets/dashboard/tables.js")),
    AssetSource::new("/assets/alerts.js", SCRIPT, include_bytes!("../../assets/dashboard/alerts.js")),
    AssetSource::new("/assets/alert.js", SCRIPT, include_bytes!("../../assets/dashboard/alert.js")),
    AssetSource::new("/assets/mutes.js", SCRIPT, include_bytes!("../../assets/dashboard/mutes.js")),
    AssetSource::new("/assets/near.js", SCRIPT, include_bytes!("../../assets/dashboard/near.js")),
    AssetSource::new("/assets/echarts.js", SCRIPT, include_bytes!("../../assets/echarts.common.min.js")),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file as it is in the repository.
struct AssetSource {
    path: &'static str,
    /// The media type.
    kind: &'static str,
    contents: &'static [u8],
}

impl AssetSource {
    const fn new(path: &'static str, kind: &'static str, contents: &'static [u8]) -> Self {
        Self { path, kind, contents }
    }
}

/// A file, ready to be sent.
struct Asset {
    kind: &'static str,
    tag: String,
    plain: &'static [u8],
    /// The contents compressed with gzip: the charts' library is half a megabyte without it.
    packed: Vec<u8>,
}

/// The files are compressed at the first visit, so a host without visitors does not spend time on them.
static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| FILES.iter().map(Asset::new).collect());

/// Whether the path is that of a file. The files contain no data, so they need no token.
pub(super) fn has(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path)
}

/// Adds a route for each file.
pub(super) fn routes(router: Router<Arc<App>>) -> Router<Arc<App>> {
    FILES.iter().enumerate().fold(router, |router, (number, file)| {
        router.route(file.path, get(move |headers: HeaderMap| async move { ASSETS[number].response(&headers) }))
    })
}

impl Asset {
    fn new(file: &AssetSource) -> Self {
        let AssetSource { kind, contents: plain, .. } = *file;
        let digest = Sha256::digest(plain);
        let tag = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        // Writing to memory does not fail; if it did, the file would be sent uncompressed.
        let packed = packer.write_all(plain).and_then(|()| packer.finish()).unwrap_or_default();
        Self { kind, tag: format!("\"{tag}\""), plain, packed }
    }

    fn response(&self, headers: &HeaderMap) -> Response {
        let value = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let common =
            [(header::ETAG, self.tag.as_str()), (header::CACHE_CONTROL, "no-cache"), (header::VARY, "accept-encoding")];
        if value(header::IF_NONE_MATCH).split(',').any(|tag| tag.trim().trim_start_matches("W/") == self.tag) {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        let kind = [(header::CONTENT_TYPE, self.kind)];
        if value(header::ACCEPT_ENCODING).contains("gzip") && !self.packed.is_empty() {
            return (common, kind, [(header::CONTENT_ENCODING, "gzip")], self.packed.clone()).into_response();
        }
        (common, kind, self.plain).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::text::{hidden_kind, is_printable};

    #[test]
    fn a_file_is_sent_compressed_or_plain_and_only_once() {
        let file = Asset::new(&FILES[1]);
        let plain = file.response(&HeaderMap::new());
        assert_eq!(plain.headers()[header::CONTENT_TYPE], CSS);
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
        let asked = |name, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            file.response(&headers)
        };
        assert_eq!(asked(header::ACCEPT_ENCODING, "br, gzip").headers()[header::CONTENT_ENCODING], "gzip");
        let again = asked(header::IF_NONE_MATCH, plain.headers()[header::ETAG].to_str().unwrap());
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(asked(header::IF_NONE_MATCH, "\"another\"").status(), StatusCode::OK);
    }

    /// Every file that the page or a script names is served, and nothing is loaded from another host.
    #[test]
    fn the_page_is_complete() {
        for AssetSource { path, kind, contents } in FILES.iter().filter(|file| !file.path.contains("echarts")) {
            let text = std::str::from_utf8(contents).unwrap();
            for (before, folder) in [("src=\"", "/"), ("href=\"", "/"), ("from \"./", "/assets/")] {
                for part in text.split(before).skip(1).filter(|part| !part.starts_with("data:")) {
                    let named = format!("{folder}{}", part.split('"').next().unwrap());
                    assert!(FILES.iter().any(|file| file.path == named), "{path} ({kind}) names {named}");
                }
            }
            // The namespace of SVG is a name, not an address.
            assert!(!text.replace("http://www.w3.org/2000/svg", "").contains("://"), "{path}");
        }
    }

    /// The page and the report of a replay showed characters that a terminal did not, and the other way round.
    #[test]
    fn the_pages_hide_what_the_program_hides() {
        let script = include_str!("../../assets/dashboard/visible.js");
        let ranges = |name: &str| -> Vec<(u32, u32)> {
            let (_, list) = script.split_once(&format!("const {name} = [")).unwrap();
            let (list, _) = list.split_once("];").unwrap();
            let code = |text: &str| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap();
            let pair = |pair: &str| pair.split_once(']')?.0.split_once(',').map(|(a, b)| (code(a), code(b)));
            list.split('[').filter_map(pair).collect()
        };
        let [hidden, selectors, pictographs] = ["HIDDEN_RANGES", "SELECTORS", "PICTOGRAPHS"].map(ranges);
        let is_in = |ranges: &[(u32, u32)], c: char| ranges.iter().any(|(a, b)| (*a..=*b).contains(&u32::from(c)));
        assert!(hidden.len() > 20);
        for c in '\0'..=char::MAX {
            let on_page = is_in(&hidden, c) || is_in(&selectors, c) || matches!(c, '\n' | '\t');
            assert_eq!(on_page, hidden_kind(c).is_some(), "{c:?}");
            for selector in ['\u{fe00}', '\u{fe0f}'] {
                assert_eq!(is_printable(&format!("{c}{selector}")), is_in(&pictographs, c), "{c:?}");
            }
        }
    }
}
