//! The directories of a TIFF or BigTIFF: where the values of each tag lie, and the values.
//!
//! A directory may claim anything, so every value that is read must lie inside the file and be of reasonable length
//! before anything is allocated for it. Tags that nobody reads are passed over whatever they claim. Directories are
//! only followed by their successor, one at a time, so that a circle of them costs nothing.

use super::super::container::Fault;

/// Values that one tag may hold: the places of a quarter of a million strips or tiles.
const MAX_VALUES: u64 = 1 << 18;

/// Names the tags that are read, and lists them.
macro_rules! tags {
    ($($name:ident = $number:literal,)*) => {
        $(pub const $name: u16 = $number;)*
        pub(super) const ALL: &[u16] = &[$($number),*];
    };
}

/// The tags that are read.
pub(super) mod tag {
    tags! {
        NEW_SUBFILE_TYPE = 254,
        IMAGE_WIDTH = 256,
        IMAGE_LENGTH = 257,
        BITS_PER_SAMPLE = 258,
        COMPRESSION = 259,
        PHOTOMETRIC = 262,
        FILL_ORDER = 266,
        IMAGE_DESCRIPTION = 270,
        STRIP_OFFSETS = 273,
        ORIENTATION = 274,
        SAMPLES_PER_PIXEL = 277,
        ROWS_PER_STRIP = 278,
        STRIP_BYTE_COUNTS = 279,
        MAX_SAMPLE_VALUE = 281,
        PLANAR_CONFIGURATION = 284,
        T6_OPTIONS = 293,
        PREDICTOR = 317,
        COLOR_MAP = 320,
        TILE_WIDTH = 322,
        TILE_LENGTH = 323,
        TILE_OFFSETS = 324,
        TILE_BYTE_COUNTS = 325,
        INK_SET = 332,
        EXTRA_SAMPLES = 338,
        SAMPLE_FORMAT = 339,
        S_MIN_SAMPLE_VALUE = 340,
        S_MAX_SAMPLE_VALUE = 341,
        JPEG_TABLES = 347,
        YCBCR_COEFFICIENTS = 529,
        YCBCR_SUBSAMPLING = 530,
        REFERENCE_BLACK_WHITE = 532,
        IMAGEJ_BYTE_COUNTS = 50_838,
        IMAGEJ_METADATA = 50_839,
    }
    /// Tags that hold a run of bytes of any length, which is borrowed from the file.
    pub(super) const BYTES: &[u16] = &[IMAGE_DESCRIPTION, IMAGEJ_METADATA];
}

/// Integers in the byte order and of the widths that the header of a file sets.
#[derive(Debug, Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
    is_big_endian: bool,
    is_big_tiff: bool,
}

impl<'a> Reader<'a> {
    /// The unsigned integer of `width` (1, 2, 4 or 8) bytes at `at`.
    fn number(&self, at: u64, width: u64) -> Result<u64, Fault> {
        let field = self.slice(at, width)?;
        let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        Ok(if self.is_big_endian { field.iter().fold(0, fold) } else { field.iter().rev().fold(0, fold) })
    }

    fn slice(&self, at: u64, length: u64) -> Result<&'a [u8], Fault> {
        let end = at.checked_add(length).ok_or(Fault::EndsEarly)?;
        let range = usize::try_from(at).ok().zip(usize::try_from(end).ok()).ok_or(Fault::EndsEarly)?;
        self.bytes.get(range.0..range.1).ok_or(Fault::EndsEarly)
    }
}

/// The values of one tag; they lie inside the file.
#[derive(Debug, Clone, Copy)]
struct Field {
    tag: u16,
    /// The TIFF type, 1 to 18.
    kind: u64,
    count: u64,
    /// Where the first value lies.
    at: u64,
}

/// One page.
#[derive(Debug)]
pub(super) struct Directory<'a> {
    reader: Reader<'a>,
    fields: Vec<Field>,
    /// Where the next directory lies; 0 is nowhere.
    next: u64,
}

fn damaged(at: u64, what: &'static str) -> Fault {
    Fault::Damaged { at: usize::try_from(at).unwrap_or(usize::MAX), what }
}

/// Bytes of one value of a TIFF type.
fn width_of(kind: u64) -> Option<u64> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 | 17 | 18 => Some(8),
        _ => None,
    }
}

impl<'a> Directory<'a> {
    /// Reads the directory of the first page.
    ///
    /// # Errors
    /// [`Fault`] if it, or a value of a tag that is read, does not lie inside the file.
    pub(super) fn first(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader { bytes, is_big_endian: bytes.first() == Some(&b'M'), is_big_tiff: false };
        reader.is_big_tiff = reader.number(2, 2)? == 43;
        let at = if reader.is_big_tiff { reader.number(8, 8)? } else { reader.number(4, 4)? };
        Self::read(reader, at)
    }

    /// Reads the directory of the page after this one, if there is one.
    pub(super) fn next(&self) -> Result<Option<Self>, Fault> {
        if self.next == 0 { Ok(None) } else { Self::read(self.reader, self.next).map(Some) }
    }

    fn read(reader: Reader<'a>, directory: u64) -> Result<Self, Fault> {
        let (offset_bytes, count_bytes) = if reader.is_big_tiff { (8, 8) } else { (4, 2) };
        // Tag and type, then the count and the value or its place.
        let entry_bytes = 4 + 2 * offset_bytes;
        let entries = reader.number(directory, count_bytes)?;
        let place = |entry: u64| {
            let skipped = entry.checked_mul(entry_bytes)?;
            directory.checked_add(count_bytes)?.checked_add(skipped)
        };
        let mut fields: Vec<Field> = Vec::new();
        for entry in 0..entries {
            let at = place(entry).ok_or(Fault::EndsEarly)?;
            let tag = u16::try_from(reader.number(at, 2)?).expect("two bytes");
            let kind = reader.number(at + 2, 2)?;
            let count = reader.number(at + 4, offset_bytes)?;
            // Where a tag stands twice the first counts, as in libtiff.
            if !tag::ALL.contains(&tag) || fields.iter().any(|field| field.tag == tag) {
                continue;
            }
            let width =
                width_of(kind).ok_or_else(|| damaged(at, "a tag is of a type that does not exist"))?;
            if tag::BYTES.contains(&tag) && width != 1 {
                // Nobody's picture depends on a comment.
                continue;
            }
            if count > MAX_VALUES && !tag::BYTES.contains(&tag) {
                return Err(damaged(at, "a tag claims too many values"));
            }
            let mut values = at + 4 + offset_bytes;
            if count.checked_mul(width).is_none_or(|length| length > offset_bytes) {
                values = reader.number(values, offset_bytes)?;
                reader.slice(values, count.checked_mul(width).ok_or(Fault::EndsEarly)?)?;
            }
            fields.push(Field { tag, kind, count, at: values });
        }
        // Files that end with their last entry are read by everybody.
        let next = place(entries).and_then(|at| reader.number(at, offset_bytes).ok()).unwrap_or(0);
        Ok(Self { reader, fields, next })
    }

    /// Whether numbers in the file have their most significant byte first.
    pub(super) fn is_big_endian(&self) -> bool {
        self.reader.is_big_endian
    }

    fn field(&self, tag: u16) -> Option<&Field> {
        self.fields.iter().find(|field| field.tag == tag && field.count > 0)
    }

    /// All values of a tag; none if the page does not have it.
    ///
    /// # Errors
    /// [`Fault`] if they are not whole numbers of at least 0.
    pub(super) fn numbers(&self, tag: u16) -> Result<Vec<u64>, Fault> {
        let Some(field) = self.field(tag) else { return Ok(Vec::new()) };
        if !matches!(field.kind, 1 | 3 | 4 | 6..=9 | 13 | 16..=18) {
            return Err(damaged(field.at, "a tag that holds whole numbers is of another type"));
        }
        let width = width_of(field.kind).expect("checked when the directory was read");
        let sign = if matches!(field.kind, 6 | 8 | 9 | 17) { 1 << (8 * width - 1) } else { 0 };
        (0..field.count)
            .map(|index| match self.reader.number(field.at + index * width, width)? {
                value if value & sign == 0 => Ok(value),
                _ => Err(damaged(field.at, "a tag is less than 0")),
            })
            .collect()
    }

    /// The first value of a tag.
    ///
    /// # Errors
    /// As [`Self::numbers`].
    pub(super) fn number(&self, tag: u16) -> Result<Option<u64>, Fault> {
        Ok(self.numbers(tag)?.first().copied())
    }

    /// All values of a tag of any numeric type.
    ///
    /// # Errors
    /// [`Fault`] if they are not numbers.
    pub(super) fn reals(&self, tag: u16) -> Result<Vec<f64>, Fault> {
        let Some(field) = self.field(tag) else { return Ok(Vec::new()) };
        let width = width_of(field.kind).expect("checked when the directory was read");
        let unused = 64 - 8 * width;
        (0..field.count)
            .map(|index| {
                let at = field.at + index * width;
                let value = self.reader.number(at, width)?;
                Ok(match field.kind {
                    1 | 3 | 4 | 16 => value as f64,
                    6 | 8 | 9 | 17 => ((value << unused) as i64 >> unused) as f64,
                    5 => self.reader.number(at, 4)? as f64 / self.reader.number(at + 4, 4)? as f64,
                    11 => f64::from(f32::from_bits(u32::try_from(value).expect("four bytes"))),
                    12 => f64::from_bits(value),
                    _ => return Err(damaged(field.at, "a tag that holds numbers is of another type")),
                })
            })
            .collect()
    }

    /// The bytes of a tag that holds text or bytes; none if the page does not have it.
    pub(super) fn bytes(&self, tag: u16) -> &'a [u8] {
        let field = self.field(tag).filter(|field| width_of(field.kind) == Some(1));
        field.and_then(|field| self.reader.slice(field.at, field.count).ok()).unwrap_or_default()
    }
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
        assert_eq!(Directory::first(&file(256, 4, 1, 7)).unwrap().numbers(256), Ok(vec![7]));
        // Five shorts at byte 16 end with the file, six do not.
        assert!(Directory::first(&file(258, 3, 5, 16)).is_ok());
        assert_eq!(Directory::first(&file(258, 3, 6, 16)).unwrap_err(), Fault::EndsEarly);
        assert_eq!(Directory::first(&file(273, 4, 2, u32::MAX)).unwrap_err(), Fault::EndsEarly);
    }

    #[test]
    fn claims_that_would_cost_memory_are_refused() {
        let at = 10;
        let too_many = Fault::Damaged { at, what: "a tag claims too many values" };
        assert_eq!(Directory::first(&file(273, 4, u32::MAX, 8)).unwrap_err(), too_many);
        let no_type = Fault::Damaged { at, what: "a tag is of a type that does not exist" };
        assert_eq!(Directory::first(&file(273, 99, 1, 8)).unwrap_err(), no_type);
        // A tag that nobody reads may claim anything.
        assert!(Directory::first(&file(34675, 7, u32::MAX, 8)).is_ok());
    }

    #[test]
    fn a_directory_outside_the_file_ends_early() {
        let mut bytes = file(256, 4, 1, 7);
        bytes[4] = 200;
        assert_eq!(Directory::first(&bytes).unwrap_err(), Fault::EndsEarly);
        let far = b"MM\0+\0\x08\0\0\xff\xff\xff\xff\xff\xff\xff\xff";
        assert_eq!(Directory::first(far).unwrap_err(), Fault::EndsEarly);
    }

    #[test]
    fn numbers_are_read_by_their_type() {
        let real = |kind, value: u32| Directory::first(&file(340, kind, 1, value)).unwrap().reals(340);
        assert_eq!(real(3, 0xFFFF), Ok(vec![65_535.0]));
        assert_eq!(real(8, 0xFFFF), Ok(vec![-1.0]));
        assert_eq!(real(9, u32::MAX), Ok(vec![-1.0]));
        assert_eq!(real(11, 0.5_f32.to_bits()), Ok(vec![0.5]));
        assert!(real(2, 0).is_err());
        let minus_one = file(256, 9, 1, u32::MAX);
        assert!(Directory::first(&minus_one).unwrap().numbers(256).is_err());
    }

    #[test]
    fn the_first_of_two_equal_tags_counts() {
        let mut bytes = file(256, 4, 1, 7);
        let second = file(256, 4, 1, 9)[10..22].to_vec();
        bytes[8] = 2;
        bytes.splice(22..22, second);
        assert_eq!(Directory::first(&bytes).unwrap().number(256), Ok(Some(7)));
    }
}
