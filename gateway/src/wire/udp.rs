//! UDP headers (RFC 768).

use crate::drop::DropReason;

/// Octets of a header.
pub const UDP_HEADER_LEN: usize = 8;

/// A UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Octets of header and payload.
    pub len: usize,
    /// As sent; 0 is none.
    pub checksum: u16,
}

impl Udp {
    /// Reads the header; the payload must be whole. The checksum is not verified: what the data plane takes in UDP
    /// is ESP, whose ICV says more, and senders put zero (RFC 3948 §2.1).
    pub fn parse(datagram: &[u8]) -> Result<Self, DropReason> {
        let &[s0, s1, d0, d1, l0, l1, c0, c1] = datagram.first_chunk().ok_or(DropReason::Malformed)?;
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if len < UDP_HEADER_LEN || len > datagram.len() {
            return Err(DropReason::Malformed);
        }
        Ok(Self {
            src_port: u16::from_be_bytes([s0, s1]),
            dst_port: u16::from_be_bytes([d0, d1]),
            len,
            checksum: u16::from_be_bytes([c0, c1]),
        })
    }

    /// The header's octets.
    pub fn write(&self) -> [u8; UDP_HEADER_LEN] {
        let [s0, s1] = self.src_port.to_be_bytes();
        let [d0, d1] = self.dst_port.to_be_bytes();
        let [l0, l1] = (self.len as u16).to_be_bytes();
        let [c0, c1] = self.checksum.to_be_bytes();
        [s0, s1, d0, d1, l0, l1, c0, c1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_header_is_read_back_and_its_length_is_not_trusted() {
        let udp = Udp { src_port: 4500, dst_port: 61234, len: 10, checksum: 0xabcd };
        let mut datagram = udp.write().to_vec();
        datagram.extend([1, 2]);
        assert_eq!(Udp::parse(&datagram), Ok(udp));
        for len in 0..datagram.len() {
            assert_eq!(Udp::parse(&datagram[..len]), Err(DropReason::Malformed));
        }
        datagram[5] = 7;
        assert_eq!(Udp::parse(&datagram), Err(DropReason::Malformed));
    }
}
