//! The page's files, embedded in the binary and served under `/`.
//!
//! Never reads the disk and never answers outside the list below. What the page needs is in the binary, so that no
//! request of it leaves the machine but those to the object store.

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use include_dir::{Dir, include_dir};

use crate::page::library;
use giemsa_core::digest::sha256_hex;

pub(crate) const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// The page's files, all at the top of the folder.
static FOLDER: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../web/page");

/// Paths of views: each is answered with the page, whose script shows the view.
const VIEWS: &[&str] = &["/", "/slide", "/image", "/review", "/models", "/health"];

/// One embedded file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asset {
    /// Name in the folder `web/page` or `web/library`, and path after `/`.
    pub(crate) name: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) content: &'static str,
}

/// What is in the folder; a test finds a file of a kind that is not listed here.
fn page_files() -> impl Iterator<Item = Asset> {
    FOLDER.files().filter_map(|file| {
        let name = file.path().to_str()?;
        let content_type = match name.rsplit_once('.')?.1 {
            "css" => "text/css; charset=utf-8",
            "html" => "text/html; charset=utf-8",
            "js" => JAVASCRIPT,
            "svg" => "image/svg+xml",
            _ => return None,
        };
        Some(Asset { name, content_type, content: file.contents_utf8()? })
    })
}

/// Routes of the page and its files; an answer says `no-cache`, so that a browser asks each time and mostly gets a 304.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let page = page_files().find(|asset| asset.name == "index.html").expect("the page is in its folder");
    let views = VIEWS.iter().map(|path| ((*path).to_owned(), page));
    let files = page_files().chain(library::files()).map(|asset| (format!("/{}", asset.name), asset));
    views.chain(files).fold(Router::new(), |router, (path, asset)| {
        let served = Served::of(asset);
        router.route(&path, get(move |headers: HeaderMap| async move { served.answer(&headers) }))
    })
}

/// A file with its ETag.
#[derive(Debug, Clone)]
struct Served {
    asset: Asset,
    /// Strong: a hash of the content.
    etag: HeaderValue,
}

impl Served {
    fn of(asset: Asset) -> Self {
        let digest = sha256_hex(asset.content.as_bytes());
        let etag =
            HeaderValue::try_from(format!("\"{}\"", &digest[..32])).expect("hexadecimal digits in quotes");
        Self { asset, etag }
    }

    fn answer(&self, request: &HeaderMap) -> Response {
        let cached = [
            (header::ETAG, self.etag.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        if self.is_known(request) {
            return (StatusCode::NOT_MODIFIED, cached).into_response();
        }
        let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static(self.asset.content_type))];
        (cached, content_type, self.asset.content).into_response()
    }

    /// Whether `If-None-Match` names this content.
    fn is_known(&self, request: &HeaderMap) -> bool {
        request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == "*" || tag.as_bytes() == self.etag.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn page() -> Asset {
        page_files().find(|asset| asset.name == "index.html").unwrap()
    }

    fn asked_with(if_none_match: &str) -> StatusCode {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, if_none_match.parse().unwrap());
        Served::of(page()).answer(&headers).status()
    }

    #[test]
    fn every_file_of_the_folder_is_served() {
        assert_eq!(page_files().count(), FOLDER.entries().len());
    }

    #[test]
    fn every_import_and_link_leads_to_a_file_that_is_served() {
        let served: BTreeSet<&str> = page_files().map(|asset| asset.name).collect();
        let mut seen = 0;
        for asset in page_files() {
            for start in ["from \"./", "import(\"./", "href=\"/", "src=\"/"] {
                for (at, _) in asset.content.match_indices(start) {
                    let name = asset.content[at + start.len()..].split('"').next().unwrap();
                    seen += 1;
                    assert!(name.is_empty() || served.contains(name), "{} names {name}", asset.name);
                }
            }
        }
        assert!(seen > 20, "only {seen} imports were found");
    }

    #[test]
    fn nothing_in_the_files_breaks_the_content_security_policy() {
        for asset in page_files() {
            let forbidden = [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                " style=\"",
                "onclick=\"",
            ];
            for word in forbidden {
                assert!(!asset.content.contains(word), "{} has {word}", asset.name);
            }
            // Another host would be a request that leaves the machine; the one address is the name of SVG's namespace.
            for address in ["http://", "https://"] {
                let elsewhere = asset.content.matches(address).count();
                let namespaces = asset.content.matches("http://www.w3.org/2000/svg").count();
                assert_eq!(
                    elsewhere,
                    if address == "http://" { namespaces } else { 0 },
                    "{} names a host",
                    asset.name
                );
            }
        }
        assert!(!page().content.contains("<script>") && !page().content.contains("<style"));
    }

    #[test]
    fn a_known_etag_gets_no_body() {
        let etag = Served::of(page()).etag;
        let etag = etag.to_str().unwrap();
        for known in [etag.to_owned(), format!("\"other\", {etag}"), format!("W/{etag}"), "*".to_owned()] {
            assert_eq!(asked_with(&known), StatusCode::NOT_MODIFIED, "{known}");
        }
        assert_eq!(asked_with("\"other\""), StatusCode::OK);
    }

    #[test]
    fn files_say_what_they_are() {
        let script = page_files().find(|asset| asset.name == "app.js").unwrap();
        let answer = Served::of(script).answer(&HeaderMap::new());
        assert_eq!(answer.headers()[header::CONTENT_TYPE], JAVASCRIPT);
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-cache");
    }
}
