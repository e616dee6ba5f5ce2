//! One connection to the dashboard that is kept, as a browser keeps it.
//!
//! An answer other than 200 is an error of the run. One request at a time.

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A client of the dashboard.
pub struct Connection {
    address: String,
    sender: SendRequest<Empty<Bytes>>,
}

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { address: address.to_owned(), sender })
    }

    /// The body of the answer to `GET path`.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Bytes> {
        let request = Request::get(path).header(header::HOST, &self.address).body(Empty::new())?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await.with_context(|| format!("GET {path}"))?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status == 200, "GET {path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}
