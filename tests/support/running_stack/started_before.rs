//! A data folder as `giemsa up` leaves it after its first start: the sample model tried on its golden set and released.
//!
//! A first start computes longer than most tests do. The folder is whole before it has its name, and is one of the very
//! program that is tested.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{RunningStack, send_signal, up, wait_for_exit};

/// Makes `data_dir` one that was started before, unless there is something in it.
pub fn fill(data_dir: &Path) {
    if fs::read_dir(data_dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return;
    }
    let folder = folder();
    if !folder.is_dir() {
        make(&folder);
    }
    copy(&folder, data_dir);
}

/// Named by the program, so that a new one starts anew.
fn folder() -> PathBuf {
    let program = fs::metadata(crate::binary("giemsa")).unwrap();
    let built = program.modified().unwrap().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    crate::scratch_folder().join(format!("started-before-{built}"))
}

/// Other test programs may make it at the same time: the first one stays.
fn make(folder: &Path) {
    let made = tempfile::tempdir_in(crate::scratch_folder()).unwrap();
    let data_dir = made.path().join("data");
    let mut stack = RunningStack::start_as(up(&data_dir, &[]));
    send_signal(stack.child.id(), "TERM");
    assert!(wait_for_exit(&mut stack.child).success());
    if let Err(error) = fs::rename(&data_dir, folder) {
        assert!(folder.is_dir(), "{error}");
    }
    // Those of programs that are no more.
    for entry in fs::read_dir(crate::scratch_folder()).unwrap().map(Result::unwrap) {
        let is_old = entry.file_name().to_str().is_some_and(|name| name.starts_with("started-before-"));
        if is_old && entry.path() != folder {
            // Another program may be doing the same.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from).into_iter().map(Result::unwrap) {
        let target = to.join(entry.path().strip_prefix(from).expect("below the folder that is walked"));
        if entry.file_type().is_dir() {
            fs::create_dir_all(target).unwrap();
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
