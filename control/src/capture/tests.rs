//! Captures made here, octet by octet, of negotiations that break in every way. Real ones are in `tests/e2e_explain.rs`.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use portcullis_ike::config::Identity;
use portcullis_ike::crypto::{AesKey, DirectionKeys, IkeEncr, Protection};
use portcullis_ike::message::{ExchangeType, Header, Message, Notify, Payload, Protocol, Sealing, notify};
use portcullis_ike::proposal::IkeProposal;
use portcullis_ike::verdict::Reason;

use super::*;

const INITIATOR: [u8; 4] = [192, 0, 2, 1];
const RESPONDER: [u8; 4] = [192, 0, 2, 2];
const SPI_I: [u8; 8] = [7; 8];
const SPI_R: [u8; 8] = [9; 8];

/// A pcap file in the making.
struct File(Vec<u8>);

impl File {
    fn new() -> Self {
        let mut header = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
            header.extend_from_slice(&word.to_le_bytes());
        }
        Self(header)
    }

    fn frame(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap();
        for word in [1, 0, length, length] {
            self.0.extend_from_slice(&word.to_le_bytes());
        }
        self.0.extend_from_slice(frame);
    }

    fn send(mut self, from: [u8; 4], to: [u8; 4], port: u16, message: &[u8]) -> Self {
        let marker: &[u8] = if port == 4500 { &[0; 4] } else { &[] };
        let payload = [marker, message].concat();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64).udp(port, port);
        let mut frame = Vec::new();
        builder.write(&mut frame, &payload).unwrap();
        self.frame(&frame);
        self
    }

    fn request(self, message: &[u8]) -> Self {
        self.send(INITIATOR, RESPONDER, 500, message)
    }

    fn response(self, message: &[u8]) -> Self {
        self.send(RESPONDER, INITIATOR, 500, message)
    }

    fn judged(self, keys: &Keys) -> Vec<Judgement> {
        let reading = read(std::io::Cursor::new(self.0)).unwrap();
        let all = conversations(&reading, keys);
        all.iter().map(|one| judge(one, &all, &reading)).collect()
    }

    /// The first negotiation's reason and sentence.
    fn reason(self, keys: &Keys) -> (Reason, String) {
        match self.judged(keys).into_iter().next() {
            Some(Judgement::Broken(verdict)) => (verdict.reason, verdict.sentence),
            other => panic!("not broken: {other:?}"),
        }
    }
}

fn header(exchange: ExchangeType, response: bool) -> Header {
    let message_id = u32::from(exchange != ExchangeType::IkeSaInit);
    let spi_r = if exchange == ExchangeType::IkeSaInit && !response { [0; 8] } else { SPI_R };
    Header { spi_i: SPI_I, spi_r, major: 2, minor: 0, exchange, initiator: !response, response, message_id }
}

fn init(response: bool, proposal: &str) -> Vec<u8> {
    let proposal: IkeProposal = proposal.parse().unwrap();
    let payloads = vec![
        Payload::Sa(vec![proposal.offer(1)]),
        Payload::Ke { method: 31, data: vec![1; 32] },
        Payload::Nonce(vec![2; 32]),
    ];
    Message { header: header(ExchangeType::IkeSaInit, response), payloads }.emit()
}

fn error(notify_type: u16, data: Vec<u8>) -> Payload {
    Payload::Notify(Notify { protocol: Protocol::Other(0), spi: Vec::new(), notify_type, data })
}

fn refused(notify_type: u16) -> Vec<u8> {
    Message { header: header(ExchangeType::IkeSaInit, true), payloads: vec![error(notify_type, Vec::new())] }
        .emit()
}

const SUITE: &str = "aes256gcm16-prfsha384-x25519";

fn sealed(response: bool, payloads: Vec<Payload>) -> Vec<u8> {
    let key = if response { [6; 36] } else { [5; 36] };
    let message = Message { header: header(ExchangeType::IkeAuth, response), payloads };
    let protection = Protection::new(IkeEncr::AesGcm16(AesKey::Aes256), None).unwrap();
    message.emit_sealed(Sealing { protection, keys: DirectionKeys { sk_e: &key, sk_a: &[] } }, 0)
}

fn keys() -> Keys {
    let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
    let (spi_i, spi_r, sk_ei, sk_er) = (hex(&SPI_I), hex(&SPI_R), hex(&[5; 36]), hex(&[6; 36]));
    let table = format!(
        "# Wireshark\n{spi_i},{spi_r},{sk_ei},{sk_er},\"AES-GCM-256 with 16 octet ICV [RFC5282]\",,,\"NONE [RFC4306]\"\n"
    );
    Keys::parse(&table).unwrap()
}

fn id(name: &str) -> Payload {
    Payload::IdI(Identity::Fqdn(name.to_owned()).into())
}

#[test]
fn where_the_first_exchange_breaks_is_told() {
    let none = Keys::default();
    let (reason, _) = File::new().request(&init(false, SUITE)).request(&init(false, SUITE)).reason(&none);
    assert_eq!(reason, Reason::PeerSilent);
    let file = File::new().request(&init(false, SUITE)).response(&refused(notify::NO_PROPOSAL_CHOSEN));
    assert_eq!(file.reason(&none).0, Reason::ProposalRefused);
    let file = File::new().request(&init(false, SUITE)).response(&init(true, SUITE));
    assert_eq!(file.reason(&none).0, Reason::AuthNeverCame);
}

#[test]
fn a_responder_that_begins_itself_shows_what_it_has() {
    let mut own = init(false, "aes256gcm16-prfsha384-modp2048");
    own[..8].copy_from_slice(&[8; 8]);
    let file = File::new()
        .request(&init(false, SUITE))
        .response(&refused(notify::NO_PROPOSAL_CHOSEN))
        .send(RESPONDER, INITIATOR, 500, &own);
    let (reason, sentence) = file.reason(&Keys::default());
    assert_eq!(reason, Reason::ProposalKeMismatch);
    assert!(sentence.contains("modp2048") && sentence.contains("x25519"), "{sentence}");
}

#[test]
fn silence_after_the_first_exchange_is_told_apart_by_size_and_port() {
    let begun = || File::new().request(&init(false, SUITE)).response(&init(true, SUITE));
    let none = Keys::default();
    let small = sealed(false, vec![id("a.example")]);
    let file = begun().send(INITIATOR, RESPONDER, 4500, &small);
    assert_eq!(file.reason(&none).0, Reason::Nat4500Blocked);
    assert_eq!(begun().request(&small).reason(&none).0, Reason::PeerSilent);
    let large = sealed(false, vec![Payload::Cert { encoding: 4, data: vec![0; 3000] }]);
    assert_eq!(begun().request(&large).reason(&none).0, Reason::FragmentsLost);
}

#[test]
fn a_rejected_authentication_is_known_by_its_size_and_read_with_keys() {
    let begun = || {
        let request = sealed(false, vec![id("a.example")]);
        File::new().request(&init(false, SUITE)).response(&init(true, SUITE)).request(&request)
    };
    let answer = sealed(true, vec![error(notify::AUTHENTICATION_FAILED, Vec::new())]);
    let (reason, sentence) = begun().response(&answer).reason(&Keys::default());
    assert_eq!(reason, Reason::AuthenticationFailed);
    assert!(!sentence.contains("a.example"), "{sentence}");
    let (_, sentence) = begun().response(&answer).reason(&keys());
    assert!(sentence.contains("`a.example`"), "{sentence}");
    let answer = sealed(true, vec![error(notify::TS_UNACCEPTABLE, Vec::new())]);
    assert_eq!(begun().response(&answer).reason(&keys()).0, Reason::TsNoOverlap);
    assert!(format!("{:?}", keys()).contains("1 IKE SAs") && !format!("{:?}", keys()).contains("05"));
}

#[test]
fn a_message_in_ip_fragments_is_put_together() {
    let message = sealed(false, vec![Payload::Cert { encoding: 4, data: vec![0; 3000] }]);
    let mut whole = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(INITIATOR, RESPONDER, 64).udp(500, 500);
    builder.write(&mut whole, &message).unwrap();
    let mut file = File::new().request(&init(false, SUITE)).response(&init(true, SUITE));
    // The later fragment comes first.
    let (head, datagram) = whole.split_at(14 + 20);
    for (offset, part, more) in [(1480, &datagram[1480..], false), (0, &datagram[..1480], true)] {
        let mut frame = head.to_vec();
        let total = u16::try_from(20 + part.len()).unwrap();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        let flags = u16::from(more) << 13 | u16::try_from(offset / 8).unwrap();
        frame[20..22].copy_from_slice(&flags.to_be_bytes());
        frame.extend_from_slice(part);
        file.frame(&frame);
    }
    let (reason, sentence) = file.reason(&Keys::default());
    assert_eq!(reason, Reason::FragmentsLost);
    assert!(sentence.contains(&format!("{} octets", message.len())), "{sentence}");
}

#[test]
fn cut_off_and_changed_files_are_read_as_far_as_they_go() {
    let file = File::new()
        .request(&init(false, SUITE))
        .response(&init(true, SUITE))
        .request(&sealed(false, vec![id("a.example")]));
    let mut judgements = 0;
    for end in 0..file.0.len() {
        if let Ok(reading) = read(std::io::Cursor::new(file.0[..end].to_vec())) {
            let all = conversations(&reading, &keys());
            for one in &all {
                judge(one, &all, &reading);
                judgements += 1;
            }
        }
        let mut changed = file.0.clone();
        changed[end] ^= 0xff;
        if let Ok(reading) = read(std::io::Cursor::new(changed)) {
            let all = conversations(&reading, &keys());
            let mut page = crate::explain::Page::new(false);
            for one in &all {
                draw(&mut page, one, &judge(one, &all, &reading));
            }
        }
    }
    assert!(judgements > 0);
    let nothing = read(std::io::Cursor::new(File::new().0));
    assert!(matches!(nothing, Err(CaptureError::NoIke { packets: 0 })), "{nothing:?}");
    assert!(read(std::io::Cursor::new(b"text".to_vec())).is_err());
    let esp = [IpAddr::from(INITIATOR), IpAddr::from(RESPONDER)];
    let plain = File::new().request(&init(false, SUITE)).send(INITIATOR, RESPONDER, 4500, b"").0;
    assert!(!read(std::io::Cursor::new(plain)).unwrap().esp.contains_key(&(esp[0], esp[1])));
    assert!(Keys::parse("a,b").is_err() && Keys::parse("zz,00,00,00").is_err());
}

#[test]
fn fuzz_capture() {
    let one = File::new().request(&init(false, SUITE)).response(&init(true, SUITE));
    let id = sealed(false, vec![id("a.example")]);
    let refusal = sealed(true, vec![error(notify::AUTHENTICATION_FAILED, Vec::new())]);
    let other = File::new().request(&init(false, SUITE)).response(&refused(notify::NO_PROPOSAL_CHOSEN));
    let seeds = [one.request(&id).response(&refusal).0, other.0];
    let keys = keys();
    portcullis_fuzz::Target::new("capture").seeds(seeds).run(|input| {
        let Ok(reading) = read(std::io::Cursor::new(input.to_vec())) else { return };
        let all = conversations(&reading, &keys);
        let mut page = crate::explain::Page::new(false);
        for one in &all {
            draw(&mut page, one, &judge(one, &all, &reading));
        }
    });
}

#[test]
fn fuzz_wireshark_keys() {
    let table = b"# Wireshark\n0001020304050607,c02e7a3031a03188,bedb67ec7dc3d00cccac42e70cd63bde,\
        3f44bf47cafd8150591deb088199fcbf,\"AES-CBC-128 [RFC3602]\",515b0bd22e6d76b34fdb760aa7bfad80b109b75d,\
        4ea8e662b07cdd430f6944c6723e4b82d5722418,\"HMAC_SHA1_96 [RFC2404]\"\n";
    portcullis_fuzz::Target::new("wireshark-keys").seeds([table.to_vec()]).run(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        match Keys::parse(text) {
            Ok(keys) => assert!(!format!("{keys:?}").contains("bedb")),
            Err(error) => _ = error.to_string(),
        }
    });
}
