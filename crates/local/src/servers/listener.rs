//! Listening on this machine: bind a port, accept connections, serve HTTP/1, stop gracefully.
//!
//! Never listens on any other address than 127.0.0.1. Every accepted connection has `TCP_NODELAY`; without it each
//! answer that s3s sends in small pieces waits 26 ms for an acknowledgement.

use std::error::Error as StdError;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1_024;

/// How long requests in progress may take to finish once the server is told to stop.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Why a server could not listen.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Another program has the port.
    #[error(
        "port {port} for {server} is in use by another program: stop that program, or choose another port with {flag}"
    )]
    PortInUse {
        /// What was to be served, e.g. `S3`.
        server: &'static str,
        /// The port.
        port: u16,
        /// The flag that chooses another.
        flag: &'static str,
    },
    /// The system refused for another reason, for example a port below 1024.
    #[error("cannot listen on 127.0.0.1:{port} for {server}: choose another port with {flag}")]
    Bind {
        /// What was to be served.
        server: &'static str,
        /// The port.
        port: u16,
        /// The flag that chooses another.
        flag: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Binds `port` of 127.0.0.1 for `server`; port 0 takes any free port. `flag` is what an error message tells the user to change.
///
/// # Errors
/// [`ListenError`] that names the port and the way out. Must be called inside a tokio runtime.
pub fn bind_loopback(
    server: &'static str,
    port: u16,
    flag: &'static str,
) -> Result<TcpListener, ListenError> {
    listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::PortInUse { server, port, flag },
        _ => ListenError::Bind { server, port, flag, source },
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // Without it a restart within a minute finds its own old connections in the way. On Windows it would mean
    // sharing the port with another program.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it on Linux, also those of servers that do not set it themselves.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `service` on `listener` until `stop` turns true, then lets requests in progress finish for [`SHUTDOWN_GRACE`].
pub async fn serve<S, B>(listener: TcpListener, service: S, stop: watch::Receiver<bool>)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    serve_each(listener, move |stream| (stream, service.clone()), stop).await;
}

/// As [`serve`], with a service and a stream of its own for each connection, as `accept` makes them.
pub(crate) async fn serve_each<I, S, B>(
    listener: TcpListener,
    accept: impl Fn(TcpStream) -> (I, S),
    mut stop: watch::Receiver<bool>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // An error means that the other side is gone, which is as good a reason to stop.
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file handles, most likely: give running requests time to return some.
                tracing::warn!(error = &error as &dyn StdError, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = &error as &dyn StdError, "client disconnected before it was served");
            continue;
        }
        let (stream, service) = accept(stream);
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // A client that hangs up is its own business; what it asked for was logged by the service.
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn StdError, "connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(SHUTDOWN_GRACE, connections.shutdown()).await.is_err() {
        tracing::warn!("requests cut off at shutdown");
    }
}

/// An address as the endpoint URL that SDKs are given.
#[must_use]
pub fn endpoint_url(address: SocketAddr) -> String {
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_the_way_out() {
        let first = bind_loopback("S3", 0, "--s3-port").unwrap();
        let address = first.local_addr().unwrap();
        assert!(address.ip().is_loopback());
        let error = bind_loopback("S3", address.port(), "--s3-port").unwrap_err();
        assert!(matches!(error, ListenError::PortInUse { .. }));
        let message = error.to_string();
        assert!(message.contains(&address.port().to_string()) && message.contains("--s3-port"), "{message}");
    }

    #[tokio::test]
    async fn accepted_connections_do_not_wait_for_acknowledgements() {
        let listener = bind_loopback("S3", 0, "--s3-port").unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        drop(client.unwrap());
        if cfg!(target_os = "linux") {
            assert!(accepted.unwrap().0.nodelay().unwrap());
        }
    }
}
