//! Against the kernel's own ESP: a Linux in a virtual machine, which stands in for gateway `b` and the server behind it, with
//! SAs of fixed keys. Each way of carrying packets is tried with echo requests from either end.

use std::io::Write as _;
use std::net::IpAddr;

use portcullis_ipsec::{Encapsulation, EspAlgorithm, Mode, SaOptions, Spi};
use portcullis_lab::{Class, Host, Linux, Sites};

use crate::gateway::{A, Gateway, config, in_flight, until};

/// What the SAs of one trial are like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    algorithm: EspAlgorithm,
    esn: bool,
    udp: bool,
    outer_v6: bool,
}

impl Way {
    pub(crate) const fn new(algorithm: EspAlgorithm, esn: bool, udp: bool, outer_v6: bool) -> Self {
        Self { algorithm, esn, udp, outer_v6 }
    }

    fn outer(self) -> (IpAddr, IpAddr) {
        match self.outer_v6 {
            false => (Sites::A_OUTSIDE, Sites::B_OUTSIDE),
            true => (Sites::A_OUTSIDE_V6, Sites::B_OUTSIDE_V6),
        }
    }

    fn encapsulation(self) -> Encapsulation {
        match self.udp {
            false => Encapsulation::None,
            true => Encapsulation::Udp { local_port: 4500, remote_port: 4500 },
        }
    }

    /// The algorithm and its keys as `ip xfrm state` takes them.
    pub(crate) fn algorithm(self, keymat: &[u8]) -> String {
        let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        let name = self.algorithm.name();
        if self.algorithm.integrity().is_none() {
            let bits = self.algorithm.icv_len() * 8;
            let aead = match name {
                "chacha20poly1305" => "rfc7539esp(chacha20,poly1305)",
                name if name.ends_with("gmac") => "rfc4543(gcm(aes))",
                _ => "rfc4106(gcm(aes))",
            };
            return format!("aead '{aead}' 0x{} {bits}", hex(keymat));
        }
        let (key, integrity) = keymat.split_at(self.algorithm.key_len() + self.algorithm.salt_len());
        let cipher = match name {
            name if name.starts_with("null") => "ecb(cipher_null)",
            name if name.contains("ctr") => "rfc3686(ctr(aes))",
            _ => "cbc(aes)",
        };
        let hash = name.rsplit_once("-sha").unwrap().1;
        let (bits, key, integrity) = (self.algorithm.icv_len() * 8, hex(key), hex(integrity));
        let key = if key.is_empty() { "''".to_owned() } else { format!("0x{key}") };
        format!("enc '{cipher}' {key} auth-trunc 'hmac(sha{hash})' 0x{integrity} {bits}")
    }
}

/// A gateway `a` of the sites beside a kernel that has the addresses of `b` and of the server.
struct Trial {
    sites: Sites,
    linux: Linux,
    a: Gateway,
    /// Of the SA that the kernel receives on.
    spi: u32,
}

impl Trial {
    /// Installs SAs of that kind at both ends, in place of those before.
    fn connect(&mut self, way: Way) {
        self.spi += 1;
        (self.a.algorithm, self.a.esn) = (way.algorithm, way.esn);
        let (local, remote) = way.outer();
        let (ours, theirs) = (self.a.installer().allocate_spi().unwrap(), Spi::new(self.spi).unwrap());
        let transport = self.a.options.mode == Mode::Transport;
        let mut lines = vec!["xfrm state flush".to_owned(), "xfrm policy flush".to_owned()];
        for (src, dst, spi, seed) in [(local, remote, theirs, 2), (remote, local, ours, 1)] {
            let algorithm = way.algorithm(&self.a.keymat(seed));
            let mode = if transport { "transport" } else { "tunnel" };
            // A tunnel for both families has no family of its own.
            let flags = match (transport, way.esn) {
                (true, false) => "",
                (true, true) => "flag esn",
                (false, false) => "flag af-unspec",
                (false, true) => "flag af-unspec esn",
            };
            let encap = if way.udp { " encap espinudp 4500 4500 0.0.0.0" } else { "" };
            lines.push(format!(
                "xfrm state add src {src} dst {dst} proto esp spi 0x{spi} reqid 1 mode {mode} \
                 replay-window 32 {flags} {algorithm}{encap}"
            ));
        }
        let selectors = match (transport, way.outer_v6) {
            (true, false) => vec![("192.0.2.2/32", "192.0.2.1/32")],
            (true, true) => vec![("2001:db8:f::2/128", "2001:db8:f::1/128")],
            (false, _) => vec![("10.2.0.0/24", "10.1.0.0/24"), ("2001:db8:2::/64", "2001:db8:1::/64")],
        };
        for (here, there) in selectors {
            for (src, dst, dir, (from, to)) in
                [(here, there, "out", (remote, local)), (there, here, "in", (local, remote))]
            {
                let template = match transport {
                    true => "tmpl proto esp reqid 1 mode transport".to_owned(),
                    false => format!("tmpl src {from} dst {to} proto esp reqid 1 mode tunnel"),
                };
                lines.push(format!("xfrm policy add src {src} dst {dst} dir {dir} priority 2 {template}"));
            }
        }
        if transport && way.outer_v6 {
            // Who has the address is asked in clear, or it could never be asked at all.
            for (kind, dir) in [(135, "in"), (135, "out"), (136, "in"), (136, "out")] {
                let selector = format!("src ::/0 dst ::/0 proto 58 type {kind}");
                lines.push(format!("xfrm policy add {selector} dir {dir} priority 1 action allow"));
            }
        }
        if transport && way.udp {
            // An IKE daemon's socket, to which ESP in UDP comes, is exempt.
            let any = if way.outer_v6 { "::/0" } else { "0.0.0.0/0" };
            let selector = format!("src {any} dst {any} proto 17 dport 4500");
            lines.push(format!("xfrm policy add {selector} dir in priority 1 action allow"));
        }
        // One process for all of them: they are slow to start there.
        self.linux.run(&format!("printf \"{}\\n\" | ip -batch -", lines.join("\\n"))).unwrap();
        self.a.install(remote, way.encapsulation(), (ours, 1), (theirs, 2));
    }

    /// Boots the kernel with the addresses of `b` and the server. `None`, said aloud, where this machine cannot.
    fn start(name: &str, networks: (&[&str], &[&str])) -> Option<Self> {
        if let Some(reason) = Linux::missing() {
            // Not by `eprintln!`, which the test harness keeps to itself.
            let _unsaid =
                writeln!(std::io::stderr(), "SKIPPED: the kernel's own ESP was not tried: {reason}");
            return None;
        }
        let sites = Sites::new(name).unwrap();
        sites.b.ip("link set outside0 down").unwrap();
        let mut linux = Linux::boot(&sites.wire).unwrap();
        for line in [
            "ip addr add 192.0.2.2/24 dev eth0 && ip addr add 2001:db8:f::2/64 dev eth0 nodad",
            "ip addr add 10.2.0.10/32 dev lo && ip addr add 2001:db8:2::10/128 dev lo nodad",
            "ip route add 10.1.0.0/24 via 192.0.2.1 src 10.2.0.10",
            "ip -6 route add 2001:db8:1::/64 via 2001:db8:f::1 src 2001:db8:2::10",
            // Sockets that take ESP in UDP (UDP_ENCAP, UDP_ENCAP_ESPINUDP), of both families.
            "perl -e 'socket(S,2,2,17)&&bind(S,pack(\"SnNx8\",2,4500,0))&&setsockopt(S,17,100,pack(\"l\",2))||die $!; \
             sleep' &",
            "perl -e 'socket(S,10,2,17)&&setsockopt(S,41,26,pack(\"l\",1))&&bind(S,pack(\"SnNx20\",10,4500,0))\
             &&setsockopt(S,17,100,pack(\"l\",2))||die $!; sleep' &",
        ] {
            linux.run(line).unwrap();
        }
        let a = Gateway::start(&sites.a, Sites::A_OUTSIDE, config(&sites.a, networks));
        Some(Self { sites, linux, a, spi: 0xc0de_0000 })
    }

    /// Another policy, and so another data plane.
    fn restart(self, outer: IpAddr, networks: (&[&str], &[&str]), options: SaOptions) -> Self {
        let Self { sites, linux, a, spi } = self;
        a.dataplane.stop().unwrap();
        let mut a = Gateway::start(&sites.a, outer, config(&sites.a, networks));
        a.options = options;
        Self { sites, linux, a, spi }
    }

    /// Echo requests from a host through us, of two sizes. None of their packets may be lost.
    fn ping(&self, from: &Host, to: IpAddr, way: Way) {
        for size in [56, 1000] {
            let answers = from.ping_with(to, 3, size, &[]).unwrap();
            assert!(answers.complete(), "{way:?} {to} {:?}", self.a.stats());
        }
    }

    /// Echo requests from the kernel.
    fn ping_from_linux(&mut self, to: IpAddr) {
        let asked = self.linux.run(&format!("ping -c 3 -i 0.2 -W 5 -s 1000 {to}"));
        asked.unwrap_or_else(|error| panic!("{error}\n{:?}", self.a.stats()));
    }

    /// Demands that all that came has gone somewhere, for a reason.
    fn every_packet_went_somewhere(&self) {
        until("all packets have gone somewhere", || in_flight(&self.a.stats()) == 0);
        self.a.every_frame_has_an_owner();
        let drops = self.a.stats().drops;
        assert!(drops.iter().all(|(reason, count)| *count == 0 || *reason == "no_sa"), "{drops:?}");
    }
}

/// The usual algorithms in every way.
fn ways() -> impl Iterator<Item = Way> {
    let usual = [EspAlgorithm::Aes256Gcm16, EspAlgorithm::Aes128CbcSha256];
    let ways =
        |algorithm| (0..8).map(move |bits| Way::new(algorithm, bits & 1 != 0, bits & 2 != 0, bits & 4 != 0));
    usual.into_iter().flat_map(ways)
}

#[test]
fn the_kernels_own_esp_and_ours_talk_in_both_modes_with_every_algorithm() {
    let Some(mut trial) = Trial::start("linux", A) else { return };
    let wire = trial.sites.capture().unwrap();
    let others = EspAlgorithm::ALL.iter().enumerate();
    let others = others.map(|(at, &algorithm)| Way::new(algorithm, at % 2 == 0, at % 3 == 0, at % 5 < 2));
    for way in ways().chain(others) {
        trial.a = trial.a.at(way.outer().0);
        trial.connect(way);
        trial.ping(&trial.sites.client, Sites::SERVER, way);
        trial.ping(&trial.sites.client, Sites::SERVER_V6, way);
    }
    trial.ping_from_linux(Sites::CLIENT);
    trial.ping_from_linux(Sites::CLIENT_V6);
    trial.every_packet_went_somewhere();

    let transport = SaOptions { mode: Mode::Transport, ..SaOptions::default() };
    for outer_v6 in [false, true] {
        let (ours, theirs) =
            Way { outer_v6, ..Way::new(EspAlgorithm::Aes256Gcm16, true, false, false) }.outer();
        let (own, peers) = (ours.to_string(), theirs.to_string());
        trial = trial.restart(ours, (&[&own], &[&peers]), transport);
        for way in ways().filter(|way| way.outer_v6 == outer_v6) {
            trial.connect(way);
            trial.ping(&trial.sites.a, theirs, way);
        }
        trial.ping_from_linux(ours);
        trial.every_packet_went_somewhere();
    }
    let counts = wire.settle().unwrap();
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", wire.clear_text());
}
