//! Uploads by HTML forms: `${filename}` in a field stands for the name of the file that the form sends.
//!
//! s3s reads the form but keeps that name to itself. As on S3, all fields before the file are filled in before the
//! policy of the form is checked against them.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use s3s::Body;

/// What stands for the file's name.
const PLACEHOLDER: &[u8] = b"${filename}";

/// Most bytes of fields before the file that are looked at; S3 takes 20 kB.
const MAX_FIELDS_BYTES: usize = 64 << 10;

/// The request with its form's fields filled in; any other as it is.
pub(crate) async fn fill_in_file_name(request: Request<Incoming>) -> Result<Request<Body>, hyper::Error> {
    let Some(boundary) = boundary_of(&request) else { return Ok(request.map(Body::from)) };
    let (mut parts, mut rest) = request.into_parts();
    let mut start = BytesMut::new();
    let mut filled = None;
    while filled.is_none() && start.len() < MAX_FIELDS_BYTES {
        match std::future::poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await.transpose()? {
            Some(frame) => start.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            None => break,
        }
        filled = fill_in(&start, &boundary);
    }
    let start_bytes = start.len();
    let start = filled.map_or_else(|| start.freeze(), Bytes::from);
    let announced =
        parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if let Some(announced) = announced {
        let length = (announced + start.len()).saturating_sub(start_bytes);
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(Request::from_parts(parts, Body::http_body(Continued { start: Some(start), rest })))
}

fn boundary_of<B>(request: &Request<B>) -> Option<String> {
    let content_type = request.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    let (kind, parameters) = content_type.split_once(';')?;
    if *request.method() != Method::POST || !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("boundary="))?;
    Some(boundary.trim_matches('"').to_owned())
}

/// The start of a form with the file's name in place of what stands for it; `None` until the head of the file is in it.
fn fill_in(start: &[u8], boundary: &str) -> Option<Vec<u8>> {
    let delimiter = format!("--{boundary}\r\n");
    let mut at = 0;
    loop {
        let head = at + find(&start[at..], delimiter.as_bytes())? + delimiter.len();
        at = head + find(&start[head..], b"\r\n\r\n")?;
        let headers = String::from_utf8_lossy(&start[head..at]);
        let of_part = |line: &&str| line.to_ascii_lowercase().starts_with("content-disposition:");
        let disposition = headers.lines().find(of_part).unwrap_or_default();
        if parameter(disposition, "name").is_some_and(|name| name.eq_ignore_ascii_case("file")) {
            // Some clients send a path; only its end counts.
            let name = parameter(disposition, "filename").unwrap_or_default();
            let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
            let mut filled = replaced(&start[..head], name.as_bytes());
            filled.extend_from_slice(&start[head..]);
            return Some(filled);
        }
    }
}

fn replaced(fields: &[u8], name: &[u8]) -> Vec<u8> {
    let mut filled = Vec::with_capacity(fields.len());
    let mut rest = fields;
    while let Some(at) = find(rest, PLACEHOLDER) {
        filled.extend_from_slice(&rest[..at]);
        filled.extend_from_slice(name);
        rest = &rest[at + PLACEHOLDER.len()..];
    }
    filled.extend_from_slice(rest);
    filled
}

/// `x` of `; name="x"` in a header.
fn parameter<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = header.split_once(&format!("; {name}=\""))?;
    value.split('"').next()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// A body whose start was read already.
struct Continued {
    start: Option<Bytes>,
    rest: Incoming,
}

impl HttpBody for Continued {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.start.take() {
            Some(start) => Poll::Ready(Some(Ok(Frame::data(start)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(key: &str, disposition: &str) -> String {
        format!(
            "--b\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\n{key}\r\n\
             --b\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: image/png\r\n\r\n${{filename}}\r\n--b--"
        )
    }

    #[test]
    fn every_field_before_the_file_gets_its_name() {
        for (key, disposition, expected) in [
            ("s/${filename}", "name=\"file\"; filename=\"cell 1.png\"", "s/cell 1.png"),
            ("${filename}/${filename}", "name=\"File\"; filename=\"a\"", "a/a"),
            ("s/${filename}", "name=\"file\"; filename=\"C:\\Images\\été.png\"", "s/été.png"),
            ("s/${filename}", "name=\"file\"", "s/"),
            ("s/cell.png", "name=\"file\"; filename=\"a\"", "s/cell.png"),
        ] {
            let filled = fill_in(form(key, disposition).as_bytes(), "b").unwrap();
            // The file's own content stays as it is.
            assert_eq!(String::from_utf8(filled).unwrap(), form(expected, disposition), "{key}");
        }
    }

    #[test]
    fn a_form_whose_file_has_not_come_yet_is_read_on() {
        let whole = form("s/${filename}", "name=\"file\"; filename=\"a\"");
        let head = whole.rfind("\r\n\r\n").unwrap() + 4;
        for length in 0..head {
            assert_eq!(fill_in(&whole.as_bytes()[..length], "b"), None, "{length}");
        }
        assert!(fill_in(&whole.as_bytes()[..head], "b").is_some());
    }
}
