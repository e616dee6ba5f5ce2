//! Builds the crate again when a folder that it embeds changes, and reports what the page has to do without.

use std::path::Path;

/// Scripts that `make assets` puts there; the page works without them, but cannot do everything.
const LIBRARY: &str = "web/library";

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script the features by variables only")]
fn main() {
    for path in ["build.rs", "models/golden", "web/page", LIBRARY] {
        println!("cargo:rerun-if-changed={path}");
    }
    // The Lambda packages of the classifier and the gate have no page.
    let has_page = std::env::var_os("CARGO_FEATURE_DASHBOARD").is_some();
    let is_there = |script: &&str| Path::new(LIBRARY).join(script).exists();
    if has_page && !["openseadragon.min.js", "oidc-client-ts.min.js"].iter().all(is_there) {
        println!(
            "cargo:warning=the dashboard is built without deep zoom or sign-in: run `make assets` once (it needs npm) and \
             build again; until then images have a simple zoom, and nobody can sign in"
        );
    }
}
