//! The table: what is wrong at which end, the reason that has to be named, and where it is mended.

use portcullis_ike::verdict::{Place, Reason};
use portcullis_lab::Host;
use toml_edit::DocumentMut;

use crate::ends::{self, Settings};
use crate::pki::Flaw;
use crate::remedy;

/// Who begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Initiator {
    /// We judge a whole offer.
    They,
    /// We know only what we have sent and what came back.
    We,
}

/// Which strongSwan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Nothing is wrong with the way to it.
    Usual,
    /// UDP 4500 does not reach it.
    Odd,
}

/// How both ends authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Auth {
    Psk,
    Certificate,
}

/// What is done about it.
#[derive(Debug, Clone)]
pub(crate) enum Remedy {
    /// The printed lines for that place are written there.
    Lines(Place),
    /// A printed step that has these words is taken.
    Step(&'static str, fn(&mut Case, &Host)),
}

/// One misconfiguration.
#[derive(Debug)]
pub(crate) struct Case {
    /// Counts from 1; both ends' addresses and names have it.
    pub(crate) number: u8,
    /// In words.
    pub(crate) what: &'static str,
    pub(crate) initiator: Initiator,
    pub(crate) peer: Peer,
    pub(crate) auth: Auth,
    /// What has to be named.
    pub(crate) expected: Reason,
    pub(crate) remedy: Remedy,
    /// Our configuration of it.
    pub(crate) ours: DocumentMut,
    /// strongSwan's.
    pub(crate) theirs: Settings,
    /// What an operator fills into blanks that a verdict leaves: words of the blank, and what goes there.
    pub(crate) known: Vec<(&'static str, String)>,
    /// What is wrong with the peer's certificate.
    pub(crate) flaw: Flaw,
    /// Somebody has opened UDP 4500.
    pub(crate) port_4500_open: bool,
    /// What `explain` is asked about, if not the connection.
    asked: Option<String>,
}

impl Case {
    /// Of the connection at both ends.
    pub(crate) fn name(&self) -> String {
        format!("c{}", self.number)
    }

    /// The peer's, which it has on its wire.
    pub(crate) fn address(&self) -> String {
        format!("192.0.2.{}", 100 + u16::from(self.number))
    }

    /// What both ends should share.
    pub(crate) fn secret(&self) -> String {
        format!("the secret of case {}, long enough for one", self.number)
    }

    /// What `portcullis explain peer` is asked.
    pub(crate) fn asked_about(&self) -> String {
        self.asked.clone().unwrap_or_else(|| self.name())
    }

    fn here(mut self, below: &str, key: &str, value: &str) -> Self {
        let dot = if below.is_empty() { "" } else { "." };
        let section = format!("connections.{}{dot}{below}", self.name());
        ends::set(&mut self.ours, &section, key, value).unwrap();
        self
    }

    fn secret_here(mut self, key: &str, value: &str) -> Self {
        let section = format!("secrets.ike-{}", self.name());
        ends::set(&mut self.ours, &section, key, value).unwrap();
        self
    }

    fn there(mut self, path: &str, value: &str) -> Self {
        self.theirs.insert(path.to_owned(), value.to_owned());
        self
    }

    fn knowing(mut self, blank: &'static str, value: impl Into<String>) -> Self {
        self.known.push((blank, value.into()));
        self
    }

    fn flawed(mut self, flaw: Flaw) -> Self {
        self.flaw = flaw;
        self
    }

    /// No connection is found, so the verdict is asked for by the peer's address.
    fn by_address(mut self) -> Self {
        self.asked = Some(self.address());
        self
    }

    fn odd(mut self) -> Self {
        self.peer = Peer::Odd;
        self
    }
}

/// Numbers the cases as they are made.
#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn add(
        &mut self,
        what: &'static str,
        (initiator, auth): (Initiator, Auth),
        expected: Reason,
        remedy: Remedy,
        wrong: impl FnOnce(Case) -> Case,
    ) {
        let mut case = Case {
            number: u8::try_from(self.0.len() + 1).unwrap(),
            what,
            initiator,
            peer: Peer::Usual,
            auth,
            expected,
            remedy,
            ours: DocumentMut::new(),
            theirs: Settings::new(),
            known: Vec::new(),
            flaw: Flaw::None,
            port_4500_open: false,
            asked: None,
        };
        (case.ours, case.theirs) = (ends::ours(&case), ends::theirs(&case));
        self.0.push(wrong(case));
    }
}

/// The table.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Cases::default();
    proposals(&mut cases);
    addresses(&mut cases);
    identities(&mut cases);
    secrets(&mut cases);
    certificates(&mut cases);
    children(&mut cases);
    inner_addresses(&mut cases);
    as_initiator(&mut cases);
    network(&mut cases);
    cases.0
}

const THEY: (Initiator, Auth) = (Initiator::They, Auth::Psk);
const WE: (Initiator, Auth) = (Initiator::We, Auth::Psk);
const THEY_SIGN: (Initiator, Auth) = (Initiator::They, Auth::Certificate);
const WE_SIGN: (Initiator, Auth) = (Initiator::We, Auth::Certificate);
const HERE: Remedy = Remedy::Lines(Place::Here);
const THERE: Remedy = Remedy::Lines(Place::Strongswan);

fn proposals(cases: &mut Cases) {
    use Reason::*;
    let offers = |proposal: &'static str| move |case: Case| case.there("proposals", proposal);
    cases.add(
        "another key exchange group, mended here",
        THEY,
        ProposalKeMismatch,
        HERE,
        offers("aes256gcm16-prfsha384-modp2048"),
    );
    cases.add(
        "another key exchange group, mended there",
        THEY,
        ProposalKeMismatch,
        THERE,
        offers("aes256gcm16-prfsha384-x25519"),
    );
    cases.add(
        "AES-128 against AES-256",
        THEY,
        ProposalEncrMismatch,
        HERE,
        offers("aes128gcm16-prfsha384-ecp384"),
    );
    cases.add(
        "Camellia against AES-GCM",
        THEY,
        ProposalEncrMismatch,
        THERE,
        offers("camellia256-sha384-prfsha384-ecp384"),
    );
    cases.add(
        "another pseudorandom function, mended here",
        THEY,
        ProposalPrfMismatch,
        HERE,
        offers("aes256gcm16-prfsha256-ecp384"),
    );
    cases.add(
        "another pseudorandom function, mended there",
        THEY,
        ProposalPrfMismatch,
        THERE,
        offers("aes256gcm16-prfsha512-ecp384"),
    );
    cases.add("everything differs", THEY, ProposalMismatch, HERE, offers("aes128gcm16-prfsha256-modp2048"));
    cases.add(
        "only a broken group, not to be allowed here",
        THEY,
        ProposalKeMismatch,
        THERE,
        offers("aes256gcm16-prfsha384-modp1024"),
    );
    cases.add(
        "of two proposals the second is nearer",
        THEY,
        ProposalKeMismatch,
        HERE,
        offers("aes128gcm16-prfsha256-modp2048,aes256gcm16-prfsha384-modp3072"),
    );
    cases.add("the peer speaks IKEv1", THEY, VersionMismatch, THERE, |case| {
        case.there("version", "1").there("proposals", "aes256-sha256-modp2048,aes256gcm16-prfsha384-ecp384")
    });
}

fn addresses(cases: &mut Cases) {
    use Reason::NoConfigForAddress;
    cases.add("the peer has another address than configured", THEY, NoConfigForAddress, HERE, |case| {
        case.here("", "remote_addrs", "[\"198.51.100.7\"]").by_address()
    });
    cases.add("the peer comes to another address of ours", THEY, NoConfigForAddress, HERE, |case| {
        case.there("remote_addrs", "192.0.2.2").by_address()
    });
}

fn identities(cases: &mut Cases) {
    use Reason::IdUnexpected;
    let is = |id: &'static str| {
        move |case: Case| {
            let ids = format!("[\"a{0}.example\", \"b{0}.example\", \"{id}\"]", case.number);
            case.there("local.id", id).secret_here("ids", &ids)
        }
    };
    let wants = |id: &'static str| move |case: Case| case.there("remote.id", id);
    cases.add("the peer is somebody else, mended here", THEY, IdUnexpected, HERE, is("branch.example"));
    cases.add("the peer is somebody else, mended there", THEY, IdUnexpected, THERE, is("typo.example"));
    cases.add("the peer is an address, not a name", THEY, IdUnexpected, THERE, is("192.0.2.77"));
    cases.add("the peer is an e-mail address", THEY, IdUnexpected, HERE, is("gw@example.org"));
    cases.add("the peer wants somebody else, mended here", THEY, IdUnexpected, HERE, wants("hq.example"));
    cases.add(
        "the peer wants somebody else, mended there",
        THEY,
        IdUnexpected,
        THERE,
        wants("other.example"),
    );
    cases.add("identities crossed", THEY, IdUnexpected, THERE, |case| {
        let (a, b) = (format!("a{}.example", case.number), format!("b{}.example", case.number));
        case.there("local.id", &a).there("remote.id", &b)
    });
    cases.add("the responder is somebody else", WE, IdUnexpected, HERE, |case| {
        case.here("remote", "id", "\"*.elsewhere.example\"")
    });
}

fn secrets(cases: &mut Cases) {
    use Reason::{AuthMethodMismatch, NoSharedKey, PskMismatch};
    cases.add("another pre-shared key, mended here", THEY, PskMismatch, HERE, |case| {
        case.there("secret", "\"quite another secret, just as long as the right one\"")
            .knowing("the same as", "\"quite another secret, just as long as the right one\"")
    });
    cases.add("another pre-shared key, mended there", THEY, PskMismatch, THERE, |case| {
        let right = format!("\"{}\"", case.secret());
        case.there("secret", "\"quite another secret, just as long as the right one\"")
            .knowing("the same as", right)
    });
    cases.add("a space at the end of the pre-shared key", THEY, PskMismatch, THERE, |case| {
        let right = format!("\"{}\"", case.secret());
        let wrong = format!("\"{} \"", case.secret());
        case.there("secret", &wrong).knowing("the same as", right)
    });
    cases.add("hexadecimal read as text", THEY, PskMismatch, HERE, |case| {
        case.there("secret", "0x00112233445566778899aabbccddeeff")
            .secret_here("secret", "\"00112233445566778899aabbccddeeff\"")
            .knowing("the same as", "\"0x00112233445566778899aabbccddeeff\"")
    });
    cases.add("no pre-shared key for the peer", THEY, NoSharedKey, HERE, |case| {
        let right = format!("\"{}\"", case.secret());
        let ids = format!("[\"a{}.example\", \"someone.example\"]", case.number);
        case.here("remote", "id", "\"*.example\"").secret_here("ids", &ids).knowing("the same as", right)
    });
    cases.add("a pre-shared key where a certificate is wanted", THEY, AuthMethodMismatch, HERE, |case| {
        case.here("remote", "auth", "\"pubkey\"")
    });
}

fn certificates(cases: &mut Cases) {
    use Reason::*;
    const RENEW: fn(&mut Case, &Host) = remedy::new_certificate;
    cases.add("a CA that is not trusted here", THEY_SIGN, CertNoIssuer, HERE, |case| {
        case.flawed(Flaw::OtherCa).knowing("certificate of", "[\"other.pem\"]")
    });
    cases.add(
        "an expired certificate",
        THEY_SIGN,
        CertExpired,
        Remedy::Step("new certificate", RENEW),
        |case| case.flawed(Flaw::Expired),
    );
    cases.add("a certificate from the future", THEY_SIGN, ClockSkew, Remedy::Step("anew", RENEW), |case| {
        case.flawed(Flaw::NotYetValid)
    });
    cases.add(
        "a revoked certificate",
        THEY_SIGN,
        CertRevoked,
        Remedy::Step("new certificate", RENEW),
        |case| case.flawed(Flaw::Revoked),
    );
    cases.add(
        "a certificate for code signing",
        THEY_SIGN,
        CertInvalid,
        Remedy::Step("issue a certificate", RENEW),
        |case| case.flawed(Flaw::CodeSigning),
    );
    cases.add("an identity that is not in the certificate", THEY_SIGN, IdNotInCertificate, THERE, |case| {
        case.here("remote", "id", "\"*.example\"").there("local.id", "stranger.example")
    });
    cases.add("the peer keeps its certificate to itself", THEY_SIGN, CertMissing, THERE, |case| {
        case.there("send_cert", "never")
    });
    cases.add("strict revocation without a CRL", THEY_SIGN, CertStatusUnknown, HERE, |case| {
        case.flawed(Flaw::OtherCa).here("remote", "cacerts", "[\"other.pem\"]").here(
            "remote",
            "revocation",
            "\"strict\"",
        )
    });
    cases.add("another certificate than the pinned one", THEY_SIGN, CertNotAccepted, HERE, |case| {
        let own = format!("[\"peer{}.pem\"]", case.number);
        let pinned = format!("[\"pinned{}.pem\"]", case.number);
        let remote = format!("{{ auth = \"pubkey\", id = \"b{}.example\" }}", case.number);
        case.here("", "remote", &remote)
            .here("remote", "certs", &pinned)
            .there("send_cert", "always")
            .knowing("peer's certificate", own)
    });
    cases.add("a hash for signatures that is not allowed", THEY_SIGN, HashNotSupported, HERE, |case| {
        case.here("remote", "auth", "\"ike:ecdsa-sha512\"").there("local.auth", "ike:ecdsa-sha256")
    });
    cases.add("as initiator, a CA that is not trusted here", WE_SIGN, CertNoIssuer, HERE, |case| {
        case.flawed(Flaw::OtherCa).knowing("certificate of", "[\"other.pem\"]")
    });
    cases.add(
        "as initiator, an expired certificate",
        WE_SIGN,
        CertExpired,
        Remedy::Step("new certificate", RENEW),
        |case| case.flawed(Flaw::Expired),
    );
}

fn children(cases: &mut Cases) {
    use Reason::*;
    const ESP: &str = "children.net.esp_proposals";
    let offers = |proposal: &'static str| move |case: Case| case.there(ESP, proposal);
    cases.add(
        "AES-128 against AES-256 for ESP",
        THEY,
        ChildProposalEncrMismatch,
        HERE,
        offers("aes128gcm16"),
    );
    cases.add(
        "AES-CBC against AES-GCM for ESP",
        THEY,
        ChildProposalEncrMismatch,
        THERE,
        offers("aes256-sha256"),
    );
    cases.add("another integrity algorithm for ESP", THEY, ChildProposalIntegMismatch, HERE, |case| {
        case.here("children.net", "esp_proposals", "[\"aes256-sha512\"]").there(ESP, "aes256-sha256")
    });
    cases.add("extended sequence numbers here alone", THEY, ChildProposalEsnMismatch, HERE, |case| {
        case.here("children.net", "esp_proposals", "[\"aes256gcm16-esn\"]")
    });
    cases.add("another cipher and no extended numbers", THEY, ChildProposalMismatch, HERE, |case| {
        case.here("children.net", "esp_proposals", "[\"aes256gcm16-esn\"]").there(ESP, "aes128gcm16")
    });
    cases.add("our prefix is another there, mended here", THEY, TsNoOverlap, HERE, |case| {
        let other = format!("10.201.{}.0/24", case.number);
        case.there("children.net.remote_ts", &other)
    });
    cases.add("the peer's prefix is another here, mended there", THEY, TsNoOverlap, THERE, |case| {
        let other = format!("10.202.{}.0/24", case.number);
        case.there("children.net.local_ts", &other)
    });
    cases.add("both prefixes differ", THEY, TsNoOverlap, HERE, |case| {
        let (local, remote) =
            (format!("10.201.{}.0/24", case.number), format!("10.202.{}.0/24", case.number));
        case.there("children.net.remote_ts", &local).there("children.net.local_ts", &remote)
    });
    cases.add("TCP here, UDP there", THEY, TsNoOverlap, THERE, |case| {
        let n = case.number;
        case.here("children.net", "remote_ts", &format!("[\"10.2.{n}.0/24[tcp/443]\"]"))
            .there("children.net.local_ts", &format!("10.2.{n}.0/24[udp/53]"))
    });
}

fn inner_addresses(cases: &mut Cases) {
    use Reason::{AddressNotAskedFor, PoolFamily};
    let leases = |case: Case| {
        let (name, addrs) = (format!("p{}", case.number), format!("\"10.3.{}.0/28\"", case.number));
        let mut case = case.here("", "pools", &format!("[\"{name}\"]"));
        ends::set(&mut case.ours, &format!("pools.{name}"), "addrs", &addrs).unwrap();
        case.here("children.net", "remote_ts", "[\"dynamic\"]").there("children.net.local_ts", "dynamic")
    };
    cases.add("the peer asks for no inner address", THEY, AddressNotAskedFor, THERE, leases);
    cases.add("the peer asks for an IPv6 address, the pool has IPv4", THEY, PoolFamily, THERE, |case| {
        leases(case).there("vips", "::").knowing("only what our pools have", "0.0.0.0")
    });
}

fn as_initiator(cases: &mut Cases) {
    use Reason::*;
    cases.add("we begin, no proposal fits", WE, ProposalRefused, THERE, |case| {
        case.there("proposals", "aes128gcm16-prfsha256-x25519")
    });
    cases.add("we begin, no ESP proposal fits", WE, ChildProposalRefused, THERE, |case| {
        case.there("children.net.esp_proposals", "aes128gcm16")
    });
    cases.add("we begin, the peer has other prefixes", WE, TsNoOverlap, THERE, |case| {
        let other = format!("10.203.{}.0/24", case.number);
        case.there("children.net.remote_ts", &other)
    });
    cases.add("we begin, the peer expects another identity", WE, AuthenticationFailed, THERE, |case| {
        case.there("remote.id", "expected.example")
    });
    cases.add("we begin, the pre-shared keys differ", WE, AuthenticationFailed, HERE, |case| {
        let right = format!("\"{}\"", case.secret());
        let own = format!("\"a{}.example\"", case.number);
        case.secret_here("secret", "\"quite another secret, just as long as the right one\"")
            .knowing("the same as on the peer", right)
            .knowing("what the peer expects", own)
    });
    cases.add("only the peer could begin", WE, NoRemoteAddress, HERE, |case| {
        let right = format!("[\"{}\"]", case.address());
        let prefix = format!("[\"{}/32\"]", case.address());
        case.here("", "remote_addrs", &prefix).knowing("the peer's address", right)
    });
}

fn network(cases: &mut Cases) {
    use Reason::*;
    cases.add("nobody has the peer's address", WE, PeerSilent, HERE, |case| {
        let right = format!("[\"{}\"]", case.address());
        let nobody = format!("[\"192.0.2.{}\"]", 200 + case.number % 50);
        case.here("", "remote_addrs", &nobody).knowing("the peer's address", right)
    });
    let route: fn(&mut Case, &Host) = |case, us| {
        let own = format!("[\"{}\"]", case.address());
        let section = format!("connections.{}", case.name());
        ends::set(&mut case.ours, &section, "remote_addrs", &own).unwrap();
        us.ip(&format!("route replace {} dev outside0", case.address())).unwrap();
    };
    cases.add("no route to the peer", WE, NoRoute, Remedy::Step("ip route add", route), |case| {
        case.here("", "remote_addrs", "[\"203.0.113.9\"]").here("", "local_addrs", "[]")
    });
    let open: fn(&mut Case, &Host) = |case, _| case.port_4500_open = true;
    cases.add(
        "UDP 4500 does not pass",
        WE,
        Nat4500Blocked,
        Remedy::Step("udp dport 4500 accept", open),
        |case| case.odd(),
    );
    let pass: fn(&mut Case, &Host) = |_, _| {};
    cases.add("fragments do not pass", WE_SIGN, FragmentsLost, THERE, |case| {
        case.here("local", "certs", "\"large.pem\"").there("fragmentation", "no")
    });
    cases.add(
        "the peer's second message is lost",
        THEY_SIGN,
        AuthNeverCame,
        Remedy::Step("IP fragments", pass),
        |case| case.flawed(Flaw::Large).there("fragmentation", "no"),
    );
}
