//! One stream: what comes is taken apart, and what is to go is put together.

use std::io;

use portcullis_gateway::inlet::EspDatagram;
use portcullis_gateway::outlet::StreamPacket;
use portcullis_ike::engine::{Datagram, DatagramPayload};
use portcullis_ike::stream::{self, Packet, Reader, StreamError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::{Between, Shared, Told};

/// Octets that are put together before the kernel is given them.
const AT_ONCE: usize = 64 * 1024;

/// Why a stream has ended.
#[derive(Debug)]
pub(super) enum End {
    /// Its peer has closed it.
    Closed,
    /// So says the kernel.
    Failed(io::Error),
    /// What came is not what belongs into such a stream.
    Malformed(StreamError),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Carries packets both ways until the stream ends.
pub(super) async fn carry(
    shared: &Shared,
    between: Between,
    (socket, reader): (TcpStream, Reader),
    ike: mpsc::Receiver<Vec<u8>>,
    esp: mpsc::Receiver<StreamPacket>,
) -> End {
    let (from, to) = socket.into_split();
    // A peer that keeps one direction waiting does not stop the other.
    tokio::select! {
        end = receive(shared, between, from, reader) => end,
        end = send(to, ike, esp) => end,
    }
}

async fn receive(
    shared: &Shared,
    (local, remote): Between,
    mut from: OwnedReadHalf,
    mut reader: Reader,
) -> End {
    loop {
        let message = match reader.next_packet() {
            Ok(Some(Packet::Ike(message))) => message.to_vec(),
            Ok(Some(Packet::Esp(payload))) => {
                // TCP's own header says nothing of congestion that a packet in it has met (RFC 9329 §9.5).
                shared.inlet.give(&EspDatagram { local, remote, tos: 0, stream: true, payload });
                continue;
            }
            Ok(None) => {
                match from.read(reader.room()).await {
                    Ok(0) => return End::Closed,
                    Ok(octets) => reader.filled(octets),
                    Err(error) => return error.into(),
                }
                continue;
            }
            Err(error) => return End::Malformed(error),
        };
        // Where the engine does not keep up, this stream waits, and TCP with it.
        let datagram = Datagram { local, remote, payload: DatagramPayload::Stream(message) };
        if shared.told.send(Told::Message(datagram)).await.is_err() {
            return End::Closed;
        }
    }
}

/// IKE goes first.
async fn send(
    mut to: OwnedWriteHalf,
    mut ike: mpsc::Receiver<Vec<u8>>,
    mut esp: mpsc::Receiver<StreamPacket>,
) -> End {
    let mut out = Vec::new();
    loop {
        out.clear();
        tokio::select! {
            biased;
            Some(message) = ike.recv() => put_ike(&message, &mut out),
            Some(packet) = esp.recv() => put_esp(&packet, &mut out),
            else => return End::Closed,
        }
        while out.len() < AT_ONCE {
            if let Ok(message) = ike.try_recv() {
                put_ike(&message, &mut out);
            } else if let Ok(packet) = esp.try_recv() {
                put_esp(&packet, &mut out);
            } else {
                break;
            }
        }
        if let Err(error) = to.write_all(&out).await {
            return error.into();
        }
        // Most streams are idle most of the time.
        out.shrink_to(AT_ONCE / 16);
    }
}

fn put_ike(message: &[u8], out: &mut Vec<u8>) {
    if !stream::put_ike(message, out) {
        tracing::warn!(
            octets = message.len(),
            most = stream::MAX_MESSAGE,
            "an IKE message is too long for TCP"
        );
    }
}

fn put_esp(packet: &StreamPacket, out: &mut Vec<u8>) {
    // No frame is as long as a length can say.
    let _ = stream::put_esp(packet.esp(), out);
}
