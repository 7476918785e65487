//! Attributes inside TLS (RFC 5281 §10): code, flags, length, data, padding to four octets.

/// Codes (RFC 2865 §5, RFC 2869 §5.13).
pub(super) mod code {
    pub(in crate::auth::eap::ttls) const USER_NAME: u32 = 1;
    pub(in crate::auth::eap::ttls) const USER_PASSWORD: u32 = 2;
    pub(in crate::auth::eap::ttls) const EAP_MESSAGE: u32 = 79;
}

/// A vendor's number follows.
const VENDOR: u8 = 0x80;
/// Who does not know it has to give up.
const MANDATORY: u8 = 0x40;
const HEADER_LEN: usize = 8;

/// One attribute.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Avp<'a> {
    pub(super) code: u32,
    /// `None`: one of RADIUS's own.
    pub(super) vendor: Option<u32>,
    pub(super) mandatory: bool,
    pub(super) data: &'a [u8],
}

/// Reads attributes. `Err` says what they are instead.
pub(super) fn parse(mut octets: &[u8]) -> Result<Vec<Avp<'_>>, String> {
    let mut avps = Vec::new();
    while !octets.is_empty() {
        let wrong = || format!("{} octets inside EAP-TTLS that are no attribute", octets.len());
        let (code, rest) = octets.split_first_chunk().ok_or_else(wrong)?;
        let ([flags, length @ ..], rest): (&[u8; 4], _) = rest.split_first_chunk().ok_or_else(wrong)?;
        let [high, middle, low] = *length;
        let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).map_err(|_| wrong())?;
        let length = length.checked_sub(HEADER_LEN).ok_or_else(wrong)?;
        let (body, _) = rest.split_at_checked(length).ok_or_else(wrong)?;
        let (vendor, data) = match flags & VENDOR {
            0 => (None, body),
            _ => {
                let (vendor, data) = body.split_first_chunk().ok_or_else(wrong)?;
                (Some(u32::from_be_bytes(*vendor)), data)
            }
        };
        let mandatory = flags & MANDATORY != 0;
        avps.push(Avp { code: u32::from_be_bytes(*code), vendor, mandatory, data });
        // The last one may come without its padding.
        octets = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(avps)
}

/// An attribute that the other end has to know.
pub(super) fn emit(code: u32, data: &[u8]) -> Vec<u8> {
    // Nothing of ours comes near 16 MiB.
    let length = u32::try_from(HEADER_LEN + data.len()).unwrap_or_default() & 0x00FF_FFFF;
    let [_, length @ ..] = length.to_be_bytes();
    let mut octets = [&code.to_be_bytes()[..], &[MANDATORY], &length, data].concat();
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let octets = [emit(79, b"abcde"), emit(1, b"user")].concat();
        assert_eq!(&octets[..16], b"\0\0\0\x4F\x40\0\0\x0Dabcde\0\0\0");
        let avp = |code, data| Avp { code, vendor: None, mandatory: true, data };
        assert_eq!(parse(&octets), Ok(vec![avp(79, b"abcde".as_slice()), avp(1, b"user")]));
        let vendor = [0, 0, 0, 25, 0xC0, 0, 0, 13, 0, 0, 1, 55, 7];
        let expected = Avp { code: 25, vendor: Some(311), mandatory: true, data: &[7] };
        assert_eq!(parse(&vendor), Ok(vec![expected]));
        for wrong in [&octets[..7], &[0, 0, 0, 1, 0, 0, 0, 7], &[0, 0, 0, 1, 0x80, 0, 0, 8]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_whatever_comes(octets: Vec<u8>) {
            _ = parse(&octets);
        }
    }
}
