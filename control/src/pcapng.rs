//! Writes pcapng files (draft-ietf-opsawg-pcapng): packets of several interfaces, those of one packet under one number.

use std::io::{self, Write};

/// Link type of Ethernet frames.
const ETHERNET: u16 = 1;
/// Link type of bare IP packets.
const RAW: u16 = 101;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const OPT_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
/// `if_tsresol` 9: timestamps count nanoseconds.
const IF_TSRESOL: u16 = 9;
const EPB_PACKETID: u16 = 5;

/// A packet to be written.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// The interface that it was seen on, or another name for the place.
    pub interface: &'a str,
    /// Whether it begins with an Ethernet header, else with an IP header.
    pub ethernet: bool,
    /// Nanoseconds since the epoch.
    pub at: u64,
    /// The same for all places of one packet (`epb_packetid`).
    pub number: u64,
    /// For people.
    pub comment: &'a str,
    /// Its octets.
    pub octets: &'a [u8],
}

/// A file being written.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// Names and link types, by number.
    interfaces: Vec<(String, u16)>,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        body.extend(1_u16.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        // The section's length is not known.
        body.extend(u64::MAX.to_le_bytes());
        block(&mut out, SECTION_HEADER, &body)?;
        Ok(Self { out, interfaces: Vec::new() })
    }

    /// Writes a packet.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let interface = self.interface(packet.interface, if packet.ethernet { ETHERNET } else { RAW })?;
        let length = u32::try_from(packet.octets.len()).map_err(io::Error::other)?;
        let mut body = Vec::with_capacity(packet.octets.len() + 64);
        body.extend(interface.to_le_bytes());
        body.extend(((packet.at >> 32) as u32).to_le_bytes());
        body.extend((packet.at as u32).to_le_bytes());
        body.extend(length.to_le_bytes());
        body.extend(length.to_le_bytes());
        body.extend(packet.octets);
        pad(&mut body);
        option(&mut body, OPT_COMMENT, packet.comment.as_bytes());
        option(&mut body, EPB_PACKETID, &packet.number.to_le_bytes());
        option(&mut body, 0, &[]);
        block(&mut self.out, ENHANCED_PACKET, &body)
    }

    /// Has everything written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn interface(&mut self, name: &str, link: u16) -> io::Result<u32> {
        if let Some(known) = self.interfaces.iter().position(|(n, l)| n == name && *l == link) {
            return u32::try_from(known).map_err(io::Error::other);
        }
        let mut body = Vec::new();
        body.extend(link.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        // No limit.
        body.extend(0_u32.to_le_bytes());
        option(&mut body, IF_NAME, name.as_bytes());
        option(&mut body, IF_TSRESOL, &[9]);
        option(&mut body, 0, &[]);
        block(&mut self.out, INTERFACE_DESCRIPTION, &body)?;
        self.interfaces.push((name.to_owned(), link));
        u32::try_from(self.interfaces.len() - 1).map_err(io::Error::other)
    }
}

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 12).map_err(io::Error::other)?;
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(body)?;
    out.write_all(&length.to_le_bytes())
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    // Comments are ours, and short.
    let value = value.get(..value.len().min(usize::from(u16::MAX))).unwrap_or_default();
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

/// To a multiple of four octets; bodies begin at one.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}
