//! Builds the crate again when the golden images that it embeds change.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../../models/golden");
}
