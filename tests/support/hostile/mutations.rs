//! Files that were damaged on their way, from seeds.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// Numbers at an edge of something, for fields of 1, 2 and 4 bytes in either order.
const EDGES: [&[u8]; 12] = [
    &[0x00],
    &[0x7F],
    &[0x80],
    &[0xFF],
    &[0x00, 0x00],
    &[0xFF, 0xFF],
    &[0x00, 0x01],
    &[0x01, 0x00],
    &[0x00, 0x00, 0x00, 0x00],
    &[0xFF, 0xFF, 0xFF, 0xFF],
    &[0x7F, 0xFF, 0xFF, 0xFF],
    &[0xFF, 0xFF, 0xFF, 0x7F],
];

/// Fields lie at the head of most files, so half of the damage is there.
fn place(length: usize, rng: &mut ChaCha8Rng) -> usize {
    let head = if rng.random() { length.min(160) } else { length };
    rng.random_range(0..head)
}

/// Damaged file `number`: its seed's name, and its bytes.
pub fn damaged(seeds: &[(String, Vec<u8>)], number: u64, rng: &mut ChaCha8Rng) -> (String, Vec<u8>) {
    // In turn, so that every seed is damaged as often as the others.
    let (name, seed) = &seeds[(number % seeds.len() as u64) as usize];
    let mut bytes = seed.clone();
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            break;
        }
        let at = place(bytes.len(), rng);
        let end = (at + rng.random_range(1..=64)).min(bytes.len());
        match rng.random_range(0..8) {
            0 | 1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes[at] = rng.random(),
            // Lengths and counts.
            3 | 4 => {
                let edge = EDGES.choose(rng).expect("there are some");
                let end = (at + edge.len()).min(bytes.len());
                bytes.splice(at..end, edge.iter().copied());
            }
            5 => {
                let copy = bytes[at..end].to_vec();
                let to = place(bytes.len(), rng);
                let repeated = copy.repeat(rng.random_range(1..=8));
                if rng.random() {
                    bytes.splice(to..to, repeated);
                } else {
                    let end = (to + repeated.len()).min(bytes.len());
                    bytes.splice(to..end, repeated);
                }
            }
            // The head of one file and the tail of another.
            6 => {
                let (_, other) = seeds.choose(rng).expect("there are some");
                bytes.truncate(at);
                if !other.is_empty() {
                    let from = place(other.len(), rng);
                    bytes.extend(&other[from..]);
                }
            }
            _ => bytes.truncate(at),
        }
    }
    (name.clone(), bytes)
}
