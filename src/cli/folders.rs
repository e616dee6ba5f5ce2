//! Which files of a folder count.
//!
//! It reads names only. Invariant: what a person names counts, whatever its name.

use giemsa::object::is_system_file;
use walkdir::DirEntry;

/// Whether a walk is to show an entry: not what is hidden, which desktops leave in folders that are looked at, nor what
/// operating systems leave.
pub fn is_shown(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    let is_system =
        if entry.file_type().is_dir() { is_system_file(&format!("{name}/")) } else { is_system_file(&name) };
    entry.depth() == 0 || !(name.starts_with('.') || is_system)
}
