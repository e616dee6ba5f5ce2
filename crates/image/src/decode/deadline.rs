//! The moment at which work on an image is given up, and the reader through which decoders see it.
//!
//! A thread cannot be stopped from outside, so decoding asks by itself: here whenever input is taken, and in the walks
//! over a file's structure. Between two looks at the clock a decoder takes at most 16 KiB of input, or unpacks what it
//! has taken, which the limits on pixels bound.

use std::cell::Cell;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::time::Instant;

/// Input, in bytes, after which the clock is looked at again.
const BYTES_BETWEEN_LOOKS: usize = 16 << 10;
/// What a call counts for beside its bytes: decoders of bits take a few at a time.
const BYTES_FOR_A_CALL: usize = 64;

/// The time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfTime;

/// When to give up, and whether somebody already had to.
#[derive(Debug)]
pub(super) struct Deadline {
    at: Option<Instant>,
    /// Decoders turn the error of a reader into one of theirs; this is how it is told apart.
    was_missed: Cell<bool>,
}

impl Deadline {
    /// Gives up at `at`, or never.
    pub(super) fn new(at: Option<Instant>) -> Self {
        Self { at, was_missed: Cell::new(false) }
    }

    /// Looks at the clock.
    pub(super) fn check(&self) -> Result<(), OutOfTime> {
        if self.at.is_some_and(|at| Instant::now() >= at) {
            self.was_missed.set(true);
            return Err(OutOfTime);
        }
        Ok(())
    }

    /// Whether a check has failed.
    pub(super) fn was_missed(&self) -> bool {
        self.was_missed.get()
    }
}

/// The bytes of a file, as long as there is time.
pub(super) struct TimedReader<'a> {
    bytes: &'a [u8],
    at: usize,
    taken: usize,
    deadline: &'a Deadline,
}

impl<'a> TimedReader<'a> {
    /// Starts at the first byte.
    pub(super) fn new(bytes: &'a [u8], deadline: &'a Deadline) -> Self {
        // The first look is at once.
        Self { bytes, at: 0, taken: BYTES_BETWEEN_LOOKS, deadline }
    }
}

impl BufRead for TimedReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.taken += BYTES_FOR_A_CALL;
        if self.taken >= BYTES_BETWEEN_LOOKS {
            self.taken = 0;
            self.deadline.check().map_err(|OutOfTime| io::Error::other("the time for this image is over"))?;
        }
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        Ok(&rest[..rest.len().min(BYTES_BETWEEN_LOOKS)])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
        self.taken += amount;
    }
}

impl Read for TimedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let found = self.fill_buf()?;
        let count = found.len().min(buffer.len());
        buffer[..count].copy_from_slice(&found[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl Seek for TimedReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let mut cursor = io::Cursor::new(self.bytes);
        cursor.set_position(self.at as u64);
        let at = cursor.seek(to)?;
        // As with any reader, a place behind the end is allowed and nothing is read there.
        self.at = usize::try_from(at).unwrap_or(usize::MAX);
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_come_through_wherever_one_seeks() {
        let bytes: Vec<u8> = (0..40_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let never = Deadline::new(None);
        let mut reader = TimedReader::new(&bytes, &never);
        let mut read = Vec::new();
        assert_eq!(reader.read_to_end(&mut read).unwrap(), bytes.len());
        assert_eq!(read, bytes);
        assert_eq!(reader.seek(SeekFrom::End(-3)).unwrap(), 39_997);
        read.clear();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes[39_997..]);
        assert_eq!(reader.seek(SeekFrom::Start(u64::MAX)).unwrap(), u64::MAX);
        assert_eq!(reader.read(&mut [0; 4]).unwrap(), 0);
        assert!(reader.seek(SeekFrom::Start(5)).is_ok() && reader.seek(SeekFrom::Current(-6)).is_err());
    }

    #[test]
    fn after_the_deadline_nothing_comes_and_it_is_known_why() {
        let over = Deadline::new(Some(Instant::now()));
        assert!(!over.was_missed());
        assert!(TimedReader::new(b"bytes", &over).fill_buf().is_err());
        assert!(over.was_missed());
    }

    #[test]
    fn the_clock_is_looked_at_while_reading_goes_on() {
        let bytes = vec![0; 1 << 20];
        let soon = Deadline::new(Some(Instant::now() + std::time::Duration::from_millis(500)));
        let mut reader = TimedReader::new(&bytes, &soon);
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(600));
        let reads = (0..1000).take_while(|_| reader.read(&mut byte).is_ok()).count();
        assert!(reads < 300, "{reads} single bytes were read after the deadline");
    }
}
