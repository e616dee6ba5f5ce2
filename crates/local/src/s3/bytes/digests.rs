//! The digests of a body as it comes in: its MD5, and the checksums that its sender announced.
//!
//! A body that does not match what its sender announced is refused.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::HeaderMap;
use md5::{Digest, Md5};
use s3s::checksum::ChecksumHasher;
use s3s::dto::{Checksum, ChecksumAlgorithm};
use s3s::{S3Result, TrailingHeaders, s3_error};

use giemsa_core::digest::hex;

/// Runs over a body, chunk by chunk.
#[derive(Default)]
pub(crate) struct Digests {
    md5: Md5,
    checksums: ChecksumHasher,
    announced: Checksum,
    /// In base64.
    announced_md5: Option<String>,
    trailers: Option<TrailingHeaders>,
}

impl Digests {
    /// For a body whose headers announce these digests, and whose trailers may announce one of `algorithm`.
    ///
    /// # Errors
    /// `NotImplemented` for an algorithm that is not known here.
    pub(crate) fn new(
        announced: Checksum,
        announced_md5: Option<String>,
        algorithm: Option<&ChecksumAlgorithm>,
        trailers: Option<TrailingHeaders>,
    ) -> S3Result<Self> {
        let names = [
            ChecksumAlgorithm::CRC32,
            ChecksumAlgorithm::CRC32C,
            ChecksumAlgorithm::CRC64NVME,
            ChecksumAlgorithm::SHA1,
            ChecksumAlgorithm::SHA256,
        ];
        let algorithm = algorithm.map(ChecksumAlgorithm::as_str);
        if let Some(unknown) = algorithm.filter(|name| !names.contains(name)) {
            return Err(s3_error!(NotImplemented, "the local stack does not know the checksum {unknown}"));
        }
        let is = |name: &str, value: &Option<String>| value.is_some() || algorithm == Some(name);
        let checksums = ChecksumHasher {
            crc32: is(ChecksumAlgorithm::CRC32, &announced.checksum_crc32).then(Default::default),
            crc32c: is(ChecksumAlgorithm::CRC32C, &announced.checksum_crc32c).then(Default::default),
            crc64nvme: is(ChecksumAlgorithm::CRC64NVME, &announced.checksum_crc64nvme).then(Default::default),
            sha1: is(ChecksumAlgorithm::SHA1, &announced.checksum_sha1).then(Default::default),
            sha256: is(ChecksumAlgorithm::SHA256, &announced.checksum_sha256).then(Default::default),
        };
        Ok(Self { md5: Md5::new(), checksums, announced, announced_md5, trailers })
    }

    pub(crate) fn update(&mut self, chunk: &[u8]) {
        self.md5.update(chunk);
        self.checksums.update(chunk);
    }

    /// The MD5 in hexadecimal digits and the checksums of the whole body, if they are what its sender announced.
    ///
    /// # Errors
    /// `BadDigest` if they are not, `InvalidDigest` if what was announced is not an MD5.
    pub(crate) fn check(self) -> S3Result<(String, Checksum)> {
        let Self { md5, checksums, mut announced, announced_md5, trailers } = self;
        let md5 = md5.finalize();
        if let Some(text) = announced_md5 {
            let wanted = BASE64_STANDARD.decode(text).map_err(|_| s3_error!(InvalidDigest))?;
            if wanted != md5[..] {
                return Err(s3_error!(
                    BadDigest,
                    "the body does not have the Content-MD5 that was sent with it"
                ));
            }
        }
        if let Some(trailers) = trailers.and_then(|trailers| trailers.take()) {
            take_trailers(&mut announced, &trailers);
        }
        let found = checksums.finalize();
        if found != announced {
            return Err(s3_error!(BadDigest, "the body has {found:?}, {announced:?} was sent with it"));
        }
        Ok((hex(&md5), found))
    }
}

fn take_trailers(announced: &mut Checksum, trailers: &HeaderMap) {
    for (name, value) in [
        ("x-amz-checksum-crc32", &mut announced.checksum_crc32),
        ("x-amz-checksum-crc32c", &mut announced.checksum_crc32c),
        ("x-amz-checksum-crc64nvme", &mut announced.checksum_crc64nvme),
        ("x-amz-checksum-sha1", &mut announced.checksum_sha1),
        ("x-amz-checksum-sha256", &mut announced.checksum_sha256),
    ] {
        if let Some(text) = trailers.get(name).and_then(|text| text.to_str().ok()) {
            *value = Some(text.to_owned());
        }
    }
}

/// The ETag of an object that is joined from parts with these ETags; `None` if one of them is not an MD5.
pub(crate) fn joined_etag(parts: &[&str]) -> Option<String> {
    let mut digest = Md5::new();
    for etag in parts {
        let number = u128::from_str_radix(etag, 16).ok()?;
        digest.update(number.to_be_bytes());
    }
    Some(format!("{}-{}", hex(&digest.finalize()), parts.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_refused_unless_it_has_every_digest_that_was_announced() {
        // Of "123456789", from the catalogue of parametrised CRC algorithms and from FIPS 180.
        let right = Checksum {
            checksum_crc32: Some("y/Q5Jg==".into()),
            checksum_crc32c: Some("4waSgw==".into()),
            checksum_crc64nvme: Some("rosUhgp5mIg=".into()),
            checksum_sha1: Some("98O8HYCOBHMq32eZZczDTKeuNEE=".into()),
            checksum_sha256: Some("FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=".into()),
            ..Default::default()
        };
        let check = |announced: Checksum, md5: Option<&str>, algorithm: Option<&'static str>| {
            let algorithm = algorithm.map(ChecksumAlgorithm::from_static);
            let mut digests =
                Digests::new(announced, md5.map(str::to_owned), algorithm.as_ref(), None).unwrap();
            digests.update(b"12345");
            digests.update(b"6789");
            digests.check().map(|(md5, _)| md5).map_err(|error| error.code().as_str().to_owned())
        };
        let none = Checksum::default;
        let md5 = Ok("25f9e794323b453885f5181f1b624d0b".to_owned());
        assert_eq!(check(right.clone(), Some("JfnnlDI7RTiF9RgfG2JNCw=="), None), md5);
        assert_eq!(check(none(), None, None), md5);
        let bad = Err("BadDigest".to_owned());
        assert_eq!(check(none(), Some("AAAAAAAAAAAAAAAAAAAAAA=="), None), bad);
        assert_eq!(check(none(), Some("not base64"), None), Err("InvalidDigest".to_owned()));
        assert_eq!(check(none(), None, Some("CRC32")), bad, "announced and never sent");
        let wrong = || Some("AAAAAA==".to_owned());
        for wrong in [
            Checksum { checksum_crc32: wrong(), ..right.clone() },
            Checksum { checksum_crc32c: wrong(), ..right.clone() },
            Checksum { checksum_crc64nvme: wrong(), ..right.clone() },
            Checksum { checksum_sha1: wrong(), ..right.clone() },
            Checksum { checksum_sha256: wrong(), ..right.clone() },
        ] {
            assert_eq!(check(wrong, None, None), bad);
        }
    }

    #[test]
    fn what_is_joined_has_the_digest_of_the_digests() {
        // printf '\x90\x01\x50\x98\x3c\xd2\x4f\xb0\xd6\x96\x3f\x7d\x28\xe1\x7f\x72' | md5sum
        let abc = "900150983cd24fb0d6963f7d28e17f72";
        assert_eq!(joined_etag(&[abc]).unwrap(), "af5da9f45af7a300e3aded972f8ff687-1");
        assert_eq!(joined_etag(&["made up"]), None);
    }
}
