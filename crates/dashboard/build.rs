//! Builds the crate again when a folder that it embeds changes, and reports what the page has to do without.

use std::path::Path;

/// Scripts that `make assets` puts there; the page works without them, but cannot do everything.
const LIBRARY: &str = "../../web/library";

fn main() {
    for path in ["build.rs", "../../web/page", LIBRARY] {
        println!("cargo:rerun-if-changed={path}");
    }
    let is_there = |script: &&str| Path::new(LIBRARY).join(script).exists();
    if !["openseadragon.min.js", "oidc-client-ts.min.js"].iter().all(is_there) {
        println!(
            "cargo:warning=the dashboard is built without deep zoom or sign-in: run `make assets` once (it needs npm) and \
             build again; until then images have a simple zoom, and nobody can sign in"
        );
    }
}
