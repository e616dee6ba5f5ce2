//! Which way is up, as cameras record it in EXIF.
//!
//! Reads one tag of the first directory and nothing else; what cannot be read is not an orientation, since that is not a reason
//! to lose a picture.

use ::image::metadata::Orientation;

/// What stands before the structure in JPEG, and by mistake in some WebP files.
const PREFIX: &[u8] = b"Exif\0\0";

const ORIENTATION: u32 = 0x112;
const SHORT: u32 = 3;
const LONG: u32 = 4;

/// The orientation of an EXIF block, with or without its prefix.
pub(super) fn orientation(exif: &[u8]) -> Option<Orientation> {
    let exif = exif.strip_prefix(PREFIX).unwrap_or(exif);
    let is_little = match exif.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let number = |at: usize, bytes: usize| -> Option<u32> {
        let field = exif.get(at..at.checked_add(bytes)?)?;
        let push = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
        Some(if is_little { field.iter().rev().fold(0, push) } else { field.iter().fold(0, push) })
    };
    let directory = usize::try_from(number(4, 4)?).ok()?;
    let entries = usize::try_from(number(directory, 2)?).ok()?;
    for entry in (0..entries).map(|index| directory + 2 + 12 * index) {
        if number(entry, 2)? == ORIENTATION {
            let value = match number(entry + 2, 2)? {
                SHORT => number(entry + 8, 2)?,
                LONG => number(entry + 8, 4)?,
                _ => return None,
            };
            return u8::try_from(value).ok().and_then(Orientation::from_exif);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_byte_orders_and_both_widths_are_read() {
        let little_short = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let big_long = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x06\0\0\0\0";
        for exif in [&little_short[..], big_long] {
            assert_eq!(orientation(exif), Some(Orientation::Rotate90));
            assert_eq!(orientation(&[PREFIX, exif].concat()), Some(Orientation::Rotate90));
            for length in 0..20 {
                assert_eq!(orientation(&exif[..length]), None);
            }
        }
        // A directory that lies at the end of memory, and one that leads to itself.
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), None);
        assert_eq!(orientation(b"II*\0\0\0\0\0"), None);
    }
}
