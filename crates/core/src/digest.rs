//! SHA-256 in the one notation that is used everywhere: lower-case hexadecimal.

use sha2::{Digest, Sha256};

/// SHA-256 of `bytes`, 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The first 16 hexadecimal digits of the SHA-256 of `parts`, each ended by a zero byte.
///
/// 64 bits: among a billion results the chance of any two being equal is about 3 % (birthday bound
/// n²/2⁶⁵), and equal ids would still be under different keys.
pub fn short_id(parts: &[&str]) -> String {
    let mut digest = sha256_of_parts(parts.iter().copied());
    digest.truncate(16);
    digest
}

/// SHA-256 of `parts`, each ended by a zero byte, 64 lower-case hexadecimal digits.
pub fn sha256_of_parts<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut digest = Sha256Stream::default();
    for part in parts {
        digest.update(part.as_bytes());
        digest.update(&[0]);
    }
    digest.finish()
}

/// SHA-256 of what comes in pieces, for what is too large to be held.
#[derive(Debug, Clone, Default)]
pub struct Sha256Stream(Sha256);

impl Sha256Stream {
    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all pieces, 64 lower-case hexadecimal digits.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_published_vector() {
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), expected);
        let mut stream = Sha256Stream::default();
        stream.update(b"a");
        stream.update(b"bc");
        assert_eq!(stream.finish(), expected);
    }

    #[test]
    fn parts_cannot_run_into_each_other() {
        assert_ne!(short_id(&["ab", "c"]), short_id(&["a", "bc"]));
        assert_eq!(short_id(&["a"]).len(), 16);
    }
}
