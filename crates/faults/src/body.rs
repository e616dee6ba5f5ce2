//! Bodies that end early, come in drops, or have one bit flipped.
//!
//! What is damaged is damaged, and by no more.

use std::io;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, stream};

/// Pieces of a slow answer.
const DROPS: usize = 10;

/// Time for what comes before a cut to be sent.
const BEFORE_CUT: Duration = Duration::from_millis(10);

/// The first part of `bytes`, by `part` in 0..1 and at least one byte short, and then the end of the connection.
pub fn truncated(bytes: &Bytes, part: f64) -> Body {
    let length = ((bytes.len() as f64) * part) as usize;
    let first = bytes.slice(..length.min(bytes.len().saturating_sub(1)));
    let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "a fault was injected: the body ends here");
    let end = stream::once(async move {
        // Head and first part would not be sent if the end came at once.
        tokio::time::sleep(BEFORE_CUT).await;
        Err(cut)
    });
    Body::from_stream(stream::iter([Ok(first)]).chain(end))
}

/// `bytes` with the bit at `part` in 0..1 of it flipped; the same if there are none.
pub fn flipped(bytes: &Bytes, part: f64) -> Body {
    let mut bytes = bytes.to_vec();
    let at = ((bytes.len() as f64) * part) as usize;
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1;
    }
    Body::from(bytes)
}

/// `bytes` in drops, over `duration`.
pub fn trickled(bytes: Bytes, duration: Duration) -> Body {
    let drop_bytes = bytes.len().div_ceil(DROPS).max(1);
    let count = bytes.len().div_ceil(drop_bytes);
    let drops = (0..count).map(move |n| bytes.slice(n * drop_bytes..((n + 1) * drop_bytes).min(bytes.len())));
    let wait = duration / u32::try_from(DROPS).expect("a few");
    Body::from_stream(stream::iter(drops).then(move |bytes| async move {
        tokio::time::sleep(wait).await;
        Ok::<_, io::Error>(bytes)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collected(body: Body) -> Result<Bytes, axum::Error> {
        axum::body::to_bytes(body, usize::MAX).await
    }

    #[tokio::test]
    async fn bodies_are_damaged_as_they_should_be() {
        let whole = Bytes::from_iter(0..=255_u8);
        for bytes in [whole.clone(), whole.slice(..1), Bytes::new(), whole.slice(..11)] {
            for part in [0.0, 0.5, 0.999_999] {
                assert!(collected(truncated(&bytes, part)).await.is_err());
                let damaged = collected(flipped(&bytes, part)).await.unwrap();
                let differing = damaged.iter().zip(&bytes).filter(|(a, b)| a != b).count();
                assert_eq!((damaged.len(), differing), (bytes.len(), usize::from(!bytes.is_empty())));
            }
            let started = std::time::Instant::now();
            assert_eq!(collected(trickled(bytes.clone(), Duration::from_millis(50))).await.unwrap(), bytes);
            let waited_ms = started.elapsed().as_millis();
            assert!(waited_ms >= 30 || bytes.len() < 10, "{waited_ms} ms for {} bytes", bytes.len());
        }
    }
}
