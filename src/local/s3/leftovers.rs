//! The files that s3s-fs keeps for one object or upload: their names, their way to the disk, and their removal.
//!
//! s3s-fs leaves its side files behind when an object is deleted, and everything when it is killed; this file knows
//! all names, and the tests check that none survives.
//!
//! Never touches a file that some version points to: callers pass only what the index lists as left over.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Waits until an object's bytes and side files are on disk, and returns its size in bytes.
///
/// # Errors
/// Whatever the file system says.
pub(super) fn sync_object(root: &Path, bucket: &str, file: &str) -> io::Result<u64> {
    let path = root.join(bucket).join(file);
    let object = File::open(&path)?;
    object.sync_all()?;
    for side_file in side_files(root, bucket, file) {
        match File::open(side_file) {
            Ok(side_file) => side_file.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // The names too: a file without its directory entry is lost all the same.
    for folder in path.ancestors().skip(1).take_while(|folder| folder.starts_with(root)) {
        sync_folder(folder)?;
    }
    Ok(object.metadata()?.len())
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Other systems do not open folders as files; their file systems journal the names.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// Removes an object's bytes and side files, those that exist.
///
/// # Errors
/// Whatever the file system says, except that a file is not there.
pub(super) fn remove_object(root: &Path, bucket: &str, file: &str) -> io::Result<()> {
    remove(&root.join(bucket).join(file))?;
    side_files(root, bucket, file).iter().try_for_each(|path| remove(path))
}

/// Removes what an upload left: its parts, its own two files, and nothing of the object it may have become.
///
/// # Errors
/// Whatever the file system says, except that a file is not there.
pub(super) fn remove_upload(
    root: &Path,
    bucket: &str,
    file: &str,
    upload: &str,
    parts: &[i32],
) -> io::Result<()> {
    parts.iter().try_for_each(|&number| remove(&part_path(root, upload, number)))?;
    remove(&root.join(format!(".upload-{upload}.json")))?;
    let (bucket, file) = (base64(bucket), base64(file));
    remove(&root.join(format!(".bucket-{bucket}.object-{file}.upload-{upload}.metadata.json")))
}

/// Renames the listed parts of an upload, whose `numbers` ascend, to 1, 2, 3 and so on.
///
/// # Errors
/// Whatever the file system says.
pub(super) fn close_gaps(root: &Path, upload: &str, numbers: &[i32]) -> io::Result<()> {
    let renamed = (1..).zip(numbers).filter(|(place, number)| place != *number);
    renamed.into_iter().try_for_each(|(place, &number)| {
        fs::rename(part_path(root, upload, number), part_path(root, upload, place))
    })
}

/// Where s3s-fs keeps one part of an upload.
pub(super) fn part_path(root: &Path, upload: &str, number: i32) -> PathBuf {
    root.join(format!(".upload_id-{upload}.part-{number}"))
}

fn side_files(root: &Path, bucket: &str, file: &str) -> [PathBuf; 2] {
    let (bucket, file) = (base64(bucket), base64(file));
    ["metadata", "internal"].map(|kind| root.join(format!(".bucket-{bucket}.object-{file}.{kind}.json")))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// URL-safe base64 without padding, as s3s-fs writes it.
fn base64(text: &str) -> String {
    let mut encoded = String::with_capacity((text.len() * 4).div_ceil(3));
    for chunk in text.as_bytes().chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..=chunk.len() {
            let index = bits >> (18 - 6 * digit) & 63;
            encoded.push(char::from(BASE64_URL[index as usize]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_rfc_4648_but_url_safe_and_unpadded() {
        let table = [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("??>", "Pz8-"),
            ("é?", "w6k_"),
        ];
        for (text, encoded) in table {
            assert_eq!(base64(text), encoded);
        }
    }
}
