//! Which files of a folder count. A file that the user names counts whatever its name.

use giemsa_core::object::is_system_file;
use walkdir::DirEntry;

/// Whether a walk shows an entry: not hidden files, which desktops leave in folders that were opened, nor files that
/// operating systems leave.
pub fn is_shown(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    let is_system =
        if entry.file_type().is_dir() { is_system_file(&format!("{name}/")) } else { is_system_file(&name) };
    entry.depth() == 0 || !(name.starts_with('.') || is_system)
}
