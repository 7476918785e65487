//! Streams that we open.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portcullis_ike::engine::StreamFailure;
use portcullis_ike::stream::PREFIX;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::Shared;
use super::listen::{bind, ends};

/// How long the peer may take to answer. Four SYNs have been sent by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens streams. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::daemon) struct Dialer {
    shared: Arc<Shared>,
    mark: u32,
}

impl Dialer {
    pub(super) fn new(shared: Arc<Shared>, mark: u32) -> Self {
        Self { shared, mark }
    }

    /// Opens one, from that address of ours or whichever the kernel chooses, and gives our end of it.
    pub(in crate::daemon) async fn open(
        self,
        local: IpAddr,
        remote: SocketAddr,
    ) -> Result<SocketAddr, StreamFailure> {
        let connected = timeout(PATIENCE, self.connect(local, remote)).await;
        let opened = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).and_then(|socket| {
            let between = ends(&socket)?;
            self.shared.begin(&mut self.shared.table(), between, socket, true);
            Ok(between.0)
        });
        opened.map_err(|error| failure(&error))
    }

    async fn connect(&self, local: IpAddr, remote: SocketAddr) -> io::Result<TcpStream> {
        let socket = TcpSocket::from_std_stream(bind(local, 0, self.mark)?.into());
        let mut stream = socket.connect(remote).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&PREFIX).await?;
        Ok(stream)
    }
}

fn failure(error: &io::Error) -> StreamFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => StreamFailure::Refused,
        io::ErrorKind::TimedOut => StreamFailure::NoAnswer,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => {
            StreamFailure::Ended
        }
        _ => StreamFailure::Impossible(error.to_string()),
    }
}
