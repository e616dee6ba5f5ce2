//! The first directory of a TIFF, checked before a decoder allocates what it claims.
//!
//! The decoder reserves memory for a tag by the count that the directory states, before it sees whether the file holds
//! that much. Here every value that will be read must lie inside the file and be of reasonable length. Nothing
//! is allocated.

use super::container::Fault;

/// Values that one tag may hold: the places of a quarter of a million strips or tiles.
const MAX_VALUES: u64 = 1 << 18;
/// `JPEGTables` holds bytes, not numbers; every other tag that is read holds few values or one for each strip.
const TAGS_READ: &[u16] = &[
    254, 256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339, 347, 530,
];

/// Integers in the byte order and of the widths that the header of a file sets.
struct Reader<'a> {
    bytes: &'a [u8],
    is_big_endian: bool,
    is_big_tiff: bool,
}

impl Reader<'_> {
    /// The unsigned integer of `width` (2, 4 or 8) bytes at `at`.
    fn number(&self, at: u64, width: u64) -> Result<u64, Fault> {
        let field = self.slice(at, width)?;
        let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        Ok(if self.is_big_endian { field.iter().fold(0, fold) } else { field.iter().rev().fold(0, fold) })
    }

    fn slice(&self, at: u64, length: u64) -> Result<&[u8], Fault> {
        let end = at.checked_add(length).ok_or(Fault::EndsEarly)?;
        let range = usize::try_from(at).ok().zip(usize::try_from(end).ok()).ok_or(Fault::EndsEarly)?;
        self.bytes.get(range.0..range.1).ok_or(Fault::EndsEarly)
    }
}

/// Checks that what the first directory states about the tags that are read can be true.
pub(super) fn check_first(bytes: &[u8]) -> Result<(), Fault> {
    let mut reader = Reader { bytes, is_big_endian: bytes.first() == Some(&b'M'), is_big_tiff: false };
    reader.is_big_tiff = reader.number(2, 2)? == 43;
    let (offset_bytes, count_bytes) = if reader.is_big_tiff { (8, 8) } else { (4, 2) };
    // Tag and type, then the count and the value or its place.
    let entry_bytes = 4 + 2 * offset_bytes;

    let directory = reader.number(if reader.is_big_tiff { 8 } else { 4 }, offset_bytes)?;
    let entries = reader.number(directory, count_bytes)?;
    for entry in 0..entries {
        let at = entry
            .checked_mul(entry_bytes)
            .and_then(|skipped| directory.checked_add(count_bytes)?.checked_add(skipped))
            .ok_or(Fault::EndsEarly)?;
        let tag = reader.number(at, 2)?;
        let kind = reader.number(at + 2, 2)?;
        let count = reader.number(at + 4, offset_bytes)?;
        if !TAGS_READ.iter().any(|&read| u64::from(read) == tag) {
            // Whatever else a file carries (profiles, descriptions, private data) is never looked at.
            continue;
        }
        if count > MAX_VALUES {
            return Err(damaged(at, "a tag claims too many values"));
        }
        let value_bytes = match kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 | 17 | 18 => 8,
            _ => return Err(damaged(at, "a tag is of a type that does not exist")),
        };
        let length = count * value_bytes;
        if length > offset_bytes {
            let place = reader.number(at + 4 + offset_bytes, offset_bytes)?;
            reader.slice(place, length)?;
        }
    }
    Ok(())
}

fn damaged(at: u64, what: &'static str) -> Fault {
    Fault::Damaged { at: usize::try_from(at).unwrap_or(usize::MAX), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A little-endian directory at byte 8 with one entry.
    fn file(tag: u16, kind: u16, count: u32, value: u32) -> Vec<u8> {
        let mut bytes = b"II*\0\x08\0\0\0\x01\0".to_vec();
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn values_must_lie_inside_the_file() {
        assert_eq!(check_first(&file(256, 4, 1, 7)), Ok(()));
        // Five shorts at byte 16 end with the file, six do not.
        assert_eq!(check_first(&file(258, 3, 5, 16)), Ok(()));
        assert_eq!(check_first(&file(258, 3, 6, 16)), Err(Fault::EndsEarly));
        assert_eq!(check_first(&file(273, 4, 2, u32::MAX)), Err(Fault::EndsEarly));
    }

    #[test]
    fn claims_that_would_cost_memory_are_refused() {
        let at = 10;
        let too_many = Fault::Damaged { at, what: "a tag claims too many values" };
        assert_eq!(check_first(&file(273, 4, u32::MAX, 8)), Err(too_many));
        let no_type = Fault::Damaged { at, what: "a tag is of a type that does not exist" };
        assert_eq!(check_first(&file(273, 99, 1, 8)), Err(no_type));
        // A tag that nobody reads may claim anything.
        assert_eq!(check_first(&file(34675, 7, u32::MAX, 8)), Ok(()));
    }

    #[test]
    fn a_directory_outside_the_file_ends_early() {
        let mut bytes = file(256, 4, 1, 7);
        bytes[4] = 200;
        assert_eq!(check_first(&bytes), Err(Fault::EndsEarly));
        assert_eq!(check_first(b"MM\0+\0\x08\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), Err(Fault::EndsEarly));
    }
}
