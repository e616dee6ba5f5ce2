//! Object key → name of the file that holds one version of the object.
//!
//! Any S3 key is accepted: the name keeps what is readable of it and adds a number that is used once, so that two
//! keys, or two versions of one key, never share a file. The key itself is kept in the index and never read back
//! from a file name.
//!
//! Invariant: every component of a name is an ordinary file name (not empty, `.` or `..`, no separator, no control
//! character); folders never contain `~`, files always do, so that `a` and `a/b` can be stored side by side.

/// Room for the names that s3s-fs derives from bucket and file: the longest is
/// `.bucket-<base64>.object-<base64>.upload-<uuid>.metadata.json`, and a file name has at most 255 bytes.
const DERIVED_NAME_BASE64_BYTES: usize = 255 - ".bucket-.object-.upload-.metadata.json".len() - 36;

/// Longest extension that is kept, so that an image opens with a double click.
const MAX_EXTENSION_BYTES: usize = 8;

/// The file, relative to the bucket's folder, for version `number` of the object `key`.
///
/// `number` is at least 0 and never used twice in a stack; `bucket` has 3 to 63 bytes.
pub(super) fn file_for(bucket: &str, key: &str, number: i64) -> String {
    let (folders, name) = key.rsplit_once('/').unwrap_or(("", key));
    let (stem, extension) = split_extension(name);
    let tail = format!("~{number:014x}{extension}");

    let mut head = String::new();
    if key.contains('/') {
        for folder in folders.split('/') {
            let readable = readable(folder);
            // A file system gives these names, and the empty one, a meaning of their own.
            head.push_str(if matches!(readable.as_str(), "" | "." | "..") { "_" } else { &readable });
            head.push('/');
        }
    }
    head.push_str(&readable(stem));

    truncate(&mut head, longest_file_bytes(bucket).saturating_sub(tail.len()));
    head + &tail
}

/// The longest name that s3s-fs can derive its own file names from.
fn longest_file_bytes(bucket: &str) -> usize {
    let bucket_base64 = (bucket.len() * 4).div_ceil(3);
    (DERIVED_NAME_BASE64_BYTES.saturating_sub(bucket_base64)) * 3 / 4
}

/// Splits `cell.png` into `cell` and `.png`; what does not look like an extension stays with the stem.
fn split_extension(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 => {
            let extension = &name[dot + 1..];
            let usual = (1..=MAX_EXTENSION_BYTES).contains(&extension.len())
                && extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if usual { name.split_at(dot) } else { (name, "") }
        }
        _ => (name, ""),
    }
}

fn readable(component: &str) -> String {
    let keep = |c: char| c.is_alphanumeric() || "-_. +=,@()".contains(c);
    component.chars().map(|c| if keep(c) { c } else { '_' }).collect()
}

fn truncate(text: &mut String, max_bytes: usize) {
    if text.len() > max_bytes {
        let cut = (0..=max_bytes).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_keys_stay_readable() {
        let table = [
            ("slide-01/field 3/cell.png", "slide-01/field 3/cell~0000000000002a.png"),
            ("cell.png", "cell~0000000000002a.png"),
            ("cellule-é+1.tif", "cellule-é+1~0000000000002a.tif"),
            ("README", "README~0000000000002a"),
            (".hidden", ".hidden~0000000000002a"),
        ];
        for (key, file) in table {
            assert_eq!(file_for("giemsa-input", key, 42), file);
        }
    }

    #[test]
    fn dangerous_keys_stay_in_the_folder() {
        let table = [
            ("/etc/passwd", "_/etc/passwd~0000000000002a"),
            ("../../x", "_/_/x~0000000000002a"),
            ("a//b", "a/_/b~0000000000002a"),
            ("folder/", "folder/~0000000000002a"),
            ("..", "..~0000000000002a"),
            ("a~1/b\\c\0d", "a_1/b_c_d~0000000000002a"),
        ];
        for (key, file) in table {
            assert_eq!(file_for("giemsa-input", key, 42), file);
        }
    }

    proptest! {
        #[test]
        fn every_key_gives_a_safe_file(
            key in prop_oneof!["\\PC{1,400}", "[a./~%+é -]{1,300}", "[\\x00-\\x7f]{1,1024}"],
            bucket in "[a-z0-9]{3,63}",
            number in 0..i64::MAX,
        ) {
            let file = file_for(&bucket, &key, number);
            let components: Vec<&str> = file.split('/').collect();
            let (name, folders) = components.split_last().unwrap();
            for component in &components {
                prop_assert!(!matches!(*component, "" | "." | ".."));
                prop_assert!(!component.contains(|c: char| c.is_control() || c == '\\'));
            }
            prop_assert!(folders.iter().all(|folder| !folder.contains('~')));
            prop_assert!(name.contains('~'));
            let base64 = |text: &str| (text.len() * 4).div_ceil(3);
            let derived = ".bucket-.object-.upload-.metadata.json".len() + 36 + base64(&bucket) + base64(&file);
            prop_assert!(derived <= 255, "{derived} bytes");
        }

        /// The number can be read back, so different numbers give different files whatever the keys are.
        #[test]
        fn files_are_injective_in_the_number(key in "[a./~é0-9]{1,60}", number in 0..i64::MAX) {
            let file = file_for("giemsa-input", &key, number);
            let tail = file.rsplit_once('~').unwrap().1;
            let digits = tail.split('.').next().unwrap();
            prop_assert_eq!(i64::from_str_radix(digits, 16).unwrap(), number);
        }
    }
}
