//! What IKE and ESP look like in a TCP stream (RFC 9329 §3, §4): whoever opened it sends a prefix, and then both send packets,
//! each behind its length. Sans-IO: octets in, packets out.

/// What the end that opened the stream sends first, once (RFC 9329 §4).
pub const PREFIX: [u8; 6] = *b"IKETCP";

/// What tells an IKE message from ESP, whose SPI is not zero (RFC 9329 §3.1).
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// Octets of the length, which counts itself.
const LENGTH: usize = 2;
/// What a buffer has room for at first. It grows to what one packet needs, 64 KiB at most.
const FIRST_ROOM: usize = 4096;
/// A NAT keepalive: of no use in a stream, and no error (RFC 9329 §6.6).
const KEEPALIVE: [u8; 1] = [0xff];

/// The longest IKE message that fits.
pub const MAX_MESSAGE: usize = u16::MAX as usize - LENGTH - NON_ESP_MARKER.len();

/// One packet of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// An IKE message, without the non-ESP marker.
    Ike(&'a [u8]),
    /// An ESP packet, from its SPI on.
    Esp(&'a [u8]),
}

/// Why a stream cannot be read on: it has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// It does not begin with [`PREFIX`].
    #[error("the stream begins with \"{}\" (expected \"IKETCP\", RFC 9329 §4)", found.escape_ascii())]
    Prefix {
        /// What it begins with.
        found: [u8; PREFIX.len()],
    },
    /// A length that counts less than itself.
    #[error("a packet of length {found} (expected 2 or more, for the length counts itself, RFC 9329 §3.1)")]
    Length {
        /// It.
        found: u16,
    },
    /// A packet that is neither IKE nor ESP nor a keepalive.
    #[error("a packet of {found} octets (expected an SPI or a non-ESP marker of 4 at least)")]
    Short {
        /// Its octets, without the length.
        found: usize,
    },
}

/// Takes a stream apart.
#[derive(Debug)]
pub struct Reader {
    /// What has come lies in `from..to`.
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    prefixed: bool,
}

impl Reader {
    /// Of a stream that the peer has opened: the prefix comes first.
    pub fn of_peer() -> Self {
        Self { buffer: Vec::new(), from: 0, to: 0, prefixed: false }
    }

    /// Of a stream that we have opened: the peer sends no prefix.
    pub fn of_ours() -> Self {
        Self { prefixed: true, ..Self::of_peer() }
    }

    /// Where what comes next is to be written; never empty. Says how much it was with [`Reader::filled`].
    pub fn room(&mut self) -> &mut [u8] {
        // What is left of a packet moves to the front, so that there is room for its rest.
        self.buffer.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to.saturating_sub(self.from));
        let wanted = self.wanted().max(FIRST_ROOM);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        self.buffer.get_mut(self.to..).unwrap_or_default()
    }

    /// So many octets were written into [`Reader::room`].
    pub fn filled(&mut self, octets: usize) {
        self.to = (self.to + octets).min(self.buffer.len());
    }

    /// The next packet that is whole; `None`: more has to come.
    ///
    /// # Errors
    /// The stream is not what it should be. Whatever is asked after that means nothing.
    pub fn next_packet(&mut self) -> Result<Option<Packet<'_>>, StreamError> {
        if !self.prefixed {
            let Some(found) = self.pending().first_chunk().copied() else { return Ok(None) };
            if found != PREFIX {
                return Err(StreamError::Prefix { found });
            }
            self.from += PREFIX.len();
            self.prefixed = true;
        }
        while let Some(length) = self.length()? {
            let Some(whole) = self.pending().get(..length) else { return Ok(None) };
            // An empty one says nothing, and is no error either (RFC 9329 §3).
            if matches!(whole.get(LENGTH..), Some(octets) if octets.is_empty() || octets == KEEPALIVE) {
                self.from += length;
                continue;
            }
            let at = self.from + LENGTH;
            self.from += length;
            let payload = self.buffer.get(at..self.from).unwrap_or_default();
            return match payload.split_first_chunk() {
                Some((&NON_ESP_MARKER, message)) => Ok(Some(Packet::Ike(message))),
                Some(_) => Ok(Some(Packet::Esp(payload))),
                None => Err(StreamError::Short { found: payload.len() }),
            };
        }
        Ok(None)
    }

    /// The length of the packet that comes next, itself included, once it is there.
    fn length(&self) -> Result<Option<usize>, StreamError> {
        match self.pending().first_chunk().map(|octets| u16::from_be_bytes(*octets)) {
            Some(found) if usize::from(found) < LENGTH => Err(StreamError::Length { found }),
            length => Ok(length.map(usize::from)),
        }
    }

    fn pending(&self) -> &[u8] {
        self.buffer.get(self.from..self.to).unwrap_or_default()
    }

    /// Octets that have to be there for the next packet to be whole, as far as is known, and one more at least than there are.
    fn wanted(&self) -> usize {
        let there = self.to - self.from;
        let next = self.length().ok().flatten().filter(|_| self.prefixed).unwrap_or(0);
        next.max(there + 1)
    }
}

/// Appends an IKE message to what is to be sent; false, and nothing appended, if it is longer than [`MAX_MESSAGE`].
#[must_use]
pub fn put_ike(message: &[u8], out: &mut Vec<u8>) -> bool {
    put(&NON_ESP_MARKER, message, out)
}

/// Appends an ESP packet; false, and nothing appended, if it is longer than a length can say.
#[must_use]
pub fn put_esp(packet: &[u8], out: &mut Vec<u8>) -> bool {
    put(&[], packet, out)
}

fn put(marker: &[u8], payload: &[u8], out: &mut Vec<u8>) -> bool {
    let Ok(length) = u16::try_from(LENGTH + marker.len() + payload.len()) else { return false };
    out.reserve(length.into());
    out.extend(length.to_be_bytes());
    out.extend(marker);
    out.extend(payload);
    true
}

#[cfg(test)]
mod tests {
    use portcullis_fuzz::Target;
    use proptest::prelude::*;

    use super::*;

    /// What a reader makes of a stream that comes in pieces of these sizes, again and again.
    fn read(mut reader: Reader, stream: &[u8], sizes: &[usize]) -> Result<Vec<(bool, Vec<u8>)>, StreamError> {
        let (mut packets, mut left) = (Vec::new(), stream);
        for size in sizes.iter().cycle() {
            while let Some(packet) = reader.next_packet()? {
                packets.push(match packet {
                    Packet::Ike(message) => (true, message.to_vec()),
                    Packet::Esp(packet) => (false, packet.to_vec()),
                });
            }
            if left.is_empty() {
                break;
            }
            let room = reader.room();
            let count = (*size).clamp(1, left.len()).min(room.len());
            let (now, later) = left.split_at(count);
            room[..count].copy_from_slice(now);
            reader.filled(count);
            left = later;
        }
        Ok(packets)
    }

    /// The octets of RFC 9329 §3, §3.1, §3.2, §4 and §6.6, written down by hand.
    #[test]
    fn a_stream_of_the_rfc_is_read() {
        let stream = b"IKETCP\x00\x09\0\0\0\0ike\x00\x03\xff\x00\x02\x00\x0a\0\0\x01\0esp!\x00\x06\0\0\0\0";
        let expected = vec![(true, b"ike".to_vec()), (false, b"\0\0\x01\0esp!".to_vec()), (true, Vec::new())];
        assert_eq!(read(Reader::of_peer(), stream, &[1]).unwrap(), expected);
        assert_eq!(read(Reader::of_ours(), &stream[6..], &[100]).unwrap(), expected);
        let mut out = Vec::new();
        assert!(put_ike(b"ike", &mut out) && put_esp(b"\0\0\x01\0esp!", &mut out));
        assert_eq!(out, b"\x00\x09\0\0\0\0ike\x00\x0a\0\0\x01\0esp!");
    }

    #[test]
    fn what_is_no_such_stream_is_an_error_that_says_why() {
        let error = |reader, stream: &[u8]| read(reader, stream, &[3]).unwrap_err();
        let web = error(Reader::of_peer(), b"GET / HTTP/1.1\r\n");
        assert_eq!(web, StreamError::Prefix { found: *b"GET / " });
        assert!(web.to_string().contains("\"GET / \""), "{web}");
        for found in [0, 1] {
            let stream = [PREFIX.as_slice(), &[0, found]].concat();
            assert_eq!(error(Reader::of_peer(), &stream), StreamError::Length { found: found.into() });
        }
        assert_eq!(error(Reader::of_ours(), &[0, 3, 7]), StreamError::Short { found: 1 });
        assert_eq!(error(Reader::of_ours(), &[0, 5, 1, 2, 3]), StreamError::Short { found: 3 });
        assert_eq!(read(Reader::of_peer(), b"IKETC", &[9]), Ok(Vec::new()), "the rest may come");
    }

    #[test]
    fn nothing_is_written_that_no_length_can_say() {
        let mut out = Vec::new();
        assert!(put_ike(&vec![7; MAX_MESSAGE], &mut out));
        assert_eq!(read(Reader::of_ours(), &out, &[1000]).unwrap(), [(true, vec![7; MAX_MESSAGE])]);
        let written = out.len();
        assert!(!put_ike(&vec![7; MAX_MESSAGE + 1], &mut out) && !put_esp(&vec![7; 65_534], &mut out));
        assert_eq!(out.len(), written);
    }

    proptest! {
        #[test]
        fn packets_come_out_as_they_went_in_however_the_stream_is_cut(
            packets in prop::collection::vec((any::<bool>(), prop::collection::vec(1_u8.., 4..3000)), 0..8),
            sizes in prop::collection::vec(1_usize..5000, 1..8),
        ) {
            let mut stream = PREFIX.to_vec();
            for (ike, octets) in &packets {
                let put = if *ike { put_ike } else { put_esp };
                prop_assert!(put(octets, &mut stream));
                stream.extend([0, 3, 0xff]);
            }
            prop_assert_eq!(read(Reader::of_peer(), &stream, &sizes).unwrap(), packets);
        }
    }

    #[test]
    fn fuzz_stream() {
        let seeds = [
            &b"IKETCP\x00\x09\0\0\0\0ike\x00\x03\xff"[..],
            b"IKETCP\x00\x0a\0\0\x01\0esp!",
            b"GET / HTTP/1.1",
        ];
        Target::new("stream").seeds(seeds.map(<[u8]>::to_vec)).run(|input| {
            // It is read the same, in one piece and octet by octet.
            let (whole, pieces) =
                (read(Reader::of_peer(), input, &[usize::MAX]), read(Reader::of_peer(), input, &[1]));
            assert_eq!(whole, pieces);
            let Ok(packets) = whole else { return };
            let mut again = PREFIX.to_vec();
            for (ike, octets) in &packets {
                assert!(if *ike { put_ike(octets, &mut again) } else { put_esp(octets, &mut again) });
            }
            assert_eq!(read(Reader::of_peer(), &again, &[7]).unwrap(), packets);
        });
    }
}
