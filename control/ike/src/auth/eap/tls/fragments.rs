//! TLS messages in EAP packets (RFC 5216 §2.1.5 and §3): flags, lengths, fragments, of which each is acknowledged by an
//! empty packet. Other methods over TLS do it in the same way.

/// Octets of TLS in one packet. With EAP's and IKE's headers it fits every path of IPv6.
const FRAGMENT: usize = 1000;
/// Octets of TLS that make one message: more than the longest chain of certificates that is worth judging.
const MAX_MESSAGE: usize = 64 * 1024;

/// A length follows.
const LENGTH: u8 = 0x80;
/// More fragments follow.
const MORE: u8 = 0x40;
/// The server begins.
const START: u8 = 0x20;

/// What a packet is to its receiver.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// The server begins.
    Start,
    /// TLS, whole again.
    Message(Vec<u8>),
    /// A fragment, to be acknowledged.
    Part,
    /// No TLS: an acknowledgement, or nothing to say.
    Nothing,
}

/// Both directions of one end.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    /// What is not sent yet of our message.
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// How long the message that comes is to be.
    expected: Option<usize>,
}

impl Fragments {
    /// The data of a server's first packet.
    pub(super) fn start() -> Vec<u8> {
        vec![START]
    }

    /// The data of a packet without TLS.
    pub(super) fn nothing() -> Vec<u8> {
        vec![0]
    }

    /// The data of the first packet of a message.
    pub(super) fn send(&mut self, message: Vec<u8>) -> Vec<u8> {
        let length = (message.len() > FRAGMENT).then_some(message.len());
        self.outgoing = message;
        self.packet(length)
    }

    /// The data of the next packet of a message under way, once the one before was acknowledged.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        (!self.outgoing.is_empty()).then(|| self.packet(None))
    }

    fn packet(&mut self, length: Option<usize>) -> Vec<u8> {
        let rest = self.outgoing.split_off(self.outgoing.len().min(FRAGMENT));
        let fragment = std::mem::replace(&mut self.outgoing, rest);
        let more = if self.outgoing.is_empty() { 0 } else { MORE };
        // No message of ours comes near 4 GiB.
        let length = length.map(|length| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        let mut packet = vec![more | length.map_or(0, |_| LENGTH)];
        packet.extend(length.into_iter().flatten());
        packet.extend(fragment);
        packet
    }

    /// Takes the data of a packet. `Err` says what it is instead.
    pub(super) fn receive(&mut self, data: &[u8]) -> Result<Came, String> {
        let (flags, rest) = data.split_first().ok_or_else(|| "a packet of TLS without flags".to_owned())?;
        let (length, fragment) = match flags & LENGTH {
            0 => (None, rest),
            _ => {
                let (length, fragment) = rest
                    .split_first_chunk()
                    .ok_or_else(|| "a packet of TLS without its length".to_owned())?;
                (Some(u32::from_be_bytes(*length)), fragment)
            }
        };
        if flags & START != 0 {
            return Ok(Came::Start);
        }
        if !self.outgoing.is_empty() && !fragment.is_empty() {
            return Err("TLS in place of the acknowledgement of a fragment".to_owned());
        }
        if let Some(length) = length {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > MAX_MESSAGE || self.expected.is_some_and(|expected| expected != length) {
                return Err(format!("a TLS message of {length} octets (at most {MAX_MESSAGE} are taken)"));
            }
            self.expected = Some(length);
        }
        let so_far = self.incoming.len() + fragment.len();
        if so_far > self.expected.unwrap_or(MAX_MESSAGE) {
            return Err(format!(
                "a TLS message of {so_far} octets or more, which is longer than it was to be"
            ));
        }
        self.incoming.extend(fragment);
        if flags & MORE != 0 {
            return match fragment {
                [] => Err("a fragment of TLS without octets".to_owned()),
                _ => Ok(Came::Part),
            };
        }
        let message = std::mem::take(&mut self.incoming);
        match self.expected.take() {
            Some(expected) if expected != message.len() => {
                Err(format!("a TLS message of {} octets that was to have {expected}", message.len()))
            }
            _ if message.is_empty() => Ok(Came::Nothing),
            _ => Ok(Came::Message(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_goes_in_fragments_and_is_whole_again() {
        let message: Vec<u8> = (0..2500_u32).map(|at| at as u8).collect();
        let (mut ours, mut theirs) = (Fragments::default(), Fragments::default());
        let first = ours.send(message.clone());
        assert_eq!((first[0], &first[1..5], first.len()), (0xC0, &2500_u32.to_be_bytes()[..], 1005));
        assert_eq!(theirs.receive(&first), Ok(Came::Part));
        assert_eq!(ours.receive(&Fragments::nothing()), Ok(Came::Nothing));
        let second = ours.next().unwrap();
        assert_eq!((second[0], second.len()), (0x40, 1001));
        assert_eq!(theirs.receive(&second), Ok(Came::Part));
        let third = ours.next().unwrap();
        assert_eq!((third[0], third.len()), (0, 501));
        assert_eq!(theirs.receive(&third), Ok(Came::Message(message)));
        assert_eq!(ours.next(), None);
    }

    #[test]
    fn lengths_are_not_believed() {
        let receive = |packets: &[&[u8]]| {
            let mut fragments = Fragments::default();
            packets.iter().map(|packet| fragments.receive(packet)).find(Result::is_err)
        };
        assert!(receive(&[&[]]).is_some());
        assert!(receive(&[&[0x80, 0, 0]]).is_some());
        assert!(receive(&[&[0x80, 0xFF, 0xFF, 0xFF, 0xFF, 1]]).is_some());
        assert!(receive(&[&[0x80, 0, 0, 0, 2, 1]]).is_some());
        assert!(receive(&[&[0xC0, 0, 0, 0, 2, 1], &[0x40, 1], &[0, 1]]).is_some());
        assert!(receive(&[&[0xC0, 0, 0, 0, 2, 1], &[0xC0, 0, 0, 0, 3, 1]]).is_some());
        assert!(receive(&[&[0x40]]).is_some());
        let endless = [&[0x40][..], &[0; 1000]].concat();
        assert!(receive(&vec![&endless[..]; 66]).is_some());
        assert!(receive(&vec![&endless[..]; 65]).is_none());
    }
}
