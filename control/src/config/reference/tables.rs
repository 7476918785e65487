//! What every table and key of the configuration is for. What a key takes stands in no list: the reader says it.

use super::Default::{Absent, Is, Required, Says};
use super::{Key, Table};

const fn key(name: &'static str, default: super::Default, about: &'static str) -> Key {
    Key { name, default, about }
}

/// In the order of the page.
pub(super) const TABLES: &[Table] = &[
    Table {
        path: "",
        about: "The file's own tables.",
        keys: &[
            key("gateway", Required, "interfaces, cores, the data plane"),
            key("ike", Absent, "timers and limits of the IKE engine"),
            key("connections", Absent, "peers, and what is protected on the way to them"),
            key("pools", Absent, "inner addresses for peers"),
            key("devices", Absent, "TUN devices of connections, and how much all tunnels of one may carry"),
            key("secrets", Absent, "pre-shared keys, passwords, private keys"),
            key("authorities", Absent, "where it is asked whether certificates were revoked"),
            key("radius", Absent, "AAA servers"),
            key("audit", Absent, "a file of who was there, when, from where and with what"),
        ],
    },
    Table {
        path: "gateway",
        about: "Interfaces, cores, the data plane.",
        keys: &[
            key(
                "interfaces",
                Required,
                "`[[gateway.interfaces]]` tables; at least one of each role, or one of role `both`",
            ),
            key(
                "workers",
                Is("[0]"),
                "cores, a worker thread pinned to each; see [the guide](configuration.md#workers)",
            ),
            key(
                "ike_shards",
                Says("as many as there are processors without a worker, 8 at most"),
                "engines that share the work of IKE, each in a task of its own; see [the guide](configuration.md#ike-on-several-processors)",
            ),
            key(
                "spin",
                Is(r#""50us""#),
                "for how long a worker that finds nothing looks again before it sleeps, at most; adapts to the traffic, and an idle one sleeps at once; `0`: always at once",
            ),
            key(
                "busy_poll",
                Is("0"),
                "preferred busy polling: drivers work on the workers' cores when they ask for packets, for so long at a time, instead of by interrupts. Worth it on real NICs whose interrupts cannot be kept off the workers' cores; wants `net.core` settings, see [the guide](configuration.md#workers); `0`: off",
            ),
            key(
                "watchdog",
                Is(r#""10s""#),
                "a worker that makes no round for so long has stalled: the process is aborted, and what is protected stays blocked until its supervisor has started the next",
            ),
            key("frames", Is("16384"), "frames of packet memory, shared by all workers"),
            key("frame_size", Is("4096"), "octets of a frame: 2048 or 4096"),
            key(
                "max_sas",
                Is("4096"),
                "SA pairs that the table holds; each takes 5 KiB once it has been used, in huge pages where the system has set enough aside (`vm.nr_hugepages`) or makes them itself",
            ),
            key("tun", Is(r#""portcullis0""#), "TUN device for the host's own protected traffic"),
            key(
                "pin_dir",
                Is(r#""/sys/fs/bpf/portcullis""#),
                "where XDP program, egress guard and maps are pinned",
            ),
            key("admin_socket", Is(r#""/run/portcullis/admin.sock""#), "the admin API's Unix socket"),
            key(
                "state_dir",
                Is(r#""/var/lib/portcullis""#),
                "where leases of [pools](configuration.md#poolsname) and the secret of [crash detection](configuration.md#when-a-peer-is-restarted) are kept over restarts",
            ),
            key(
                "metrics",
                Is(r#""127.0.0.1:9464""#),
                r#"address and port that Prometheus scrapes (`/metrics`), or `"off"`"#,
            ),
            key(
                "metrics_compatibility",
                Absent,
                r#"`"ipsec_exporter"`: the names of [strongSwan's exporter](monitoring.md#dashboards-made-for-strongswan) beside ours"#,
            ),
            key(
                "aead_engine",
                Says("the fastest"),
                r#"`"vaes512"`, `"vaes256"`, `"aesni"` or `"portable"`; refused at start if the processor cannot"#,
            ),
            key(
                "on_stop",
                Is(r#""closed""#),
                r#"`"closed"`: protected traffic stays blocked after an orderly stop; `"open"`: everything is detached"#,
            ),
            key(
                "firewall",
                Is(r#""none""#),
                r#"`"kernel"`: what is protected passes the host's firewall and NAT in clear, between the inside interfaces and the TUN device; `"none"`: it passes the workers alone, many times as fast; see [the guide](configuration.md#the-hosts-firewall)"#,
            ),
            key(
                "trap_packets",
                Is("16"),
                r#"packets of a child with `start_action = "trap"` that wait for its SA while it comes up, and are then sent; 0: none. All together at most a sixteenth of `frames`, and 1024"#,
            ),
            key("trap_time", Is(r#""5s""#), r#"how long they wait, `"1s"` to `"60s"`"#),
            key(
                "allow_decrypted_capture",
                Is("false"),
                "whether `portcullis capture --decrypted` may show what ESP protects",
            ),
            key(
                "sandbox",
                Is("true"),
                "whether the daemon shuts itself in at its start: files by Landlock, system calls by seccomp, see [running as a service](service.md#the-sandbox)",
            ),
            key("route_table", Is("220"), "routing table of the protected routes"),
            key("mark", Is("0x5043"), "firewall mark of the daemon's own IKE packets"),
            key(
                "x509",
                Says("`x509` beside this file"),
                "directory of certificates of end entities, see [the guide](configuration.md#certificates-and-keys)",
            ),
            key(
                "x509ca",
                Says("`x509ca` beside this file"),
                "directory of certificates of CAs, see [the guide](configuration.md#certificates-and-keys)",
            ),
            key(
                "x509crl",
                Says("`x509crl` beside this file"),
                "directory of CRLs, see [the guide](configuration.md#certificates-and-keys)",
            ),
            key(
                "private",
                Says("`private` beside this file"),
                "directory of private keys, see [the guide](configuration.md#certificates-and-keys)",
            ),
            key(
                "pubkey",
                Says("`pubkey` beside this file"),
                "directory of raw public keys, see [the guide](configuration.md#certificates-and-keys)",
            ),
            key(
                "export_routes",
                Is(r#""off""#),
                "routes for a routing daemon while CHILD SAs are up: to the inner `addresses` of peers, or to `remote_ts` as negotiated; see [the guide](configuration.md#routes-for-a-routing-daemon)",
            ),
            key("export_table", Is("222"), "the table that they are in; no routing rule may lead to it"),
            key(
                "export_protocol",
                Is("112"),
                "their protocol number, by which a routing daemon knows them: 5 to 255",
            ),
            key(
                "tcp_port",
                Absent,
                "TCP port on which peers may bring IKE and ESP in place of UDP (RFC 9329), 4500 by custom; absent: none; see [the guide](tcp.md)",
            ),
            key(
                "tcp_connections",
                Is("1024"),
                "TCP connections taken at once; half of them may be of peers that are not authenticated yet, and of each source as many of those as `ike.block_threshold` says",
            ),
            key(
                "updown_timeout",
                Is(r#""30s""#),
                "how long a child's `updown` may take before it is killed: 1 second to 10 minutes",
            ),
            key(
                "updown_at_once",
                Is("16"),
                "how many `updown` hooks run at once, those of one CHILD SA one after the other",
            ),
        ],
    },
    Table {
        path: "gateway.interfaces",
        about: "Interfaces that the gateway serves: at least one of each role, or one of role `both`.",
        keys: &[
            key("name", Required, "the interface"),
            key(
                "role",
                Required,
                r#"`"outside"`: IKE and ESP; `"inside"`: clear text to be protected; `"both"`: one interface for both ("one-armed"), see [the guide](configuration.md#gatewayinterfaces)"#,
            ),
            key(
                "queues",
                Says("all"),
                "RX queues served. Protected traffic on a queue that is not served is dropped, never passed",
            ),
            key(
                "mode",
                Is(r#""auto""#),
                r#"`"native"`: the driver's XDP or none; `"skb"`: the generic one; `"auto"`: native, else generic"#,
            ),
        ],
    },
    Table {
        path: "ike",
        about: "Timers and limits of the IKE engine, with the names of strongswan.conf's `charon` section.",
        keys: &[
            key("retransmit_timeout", Is(r#""4s""#), "first interval of retransmission"),
            key("retransmit_base", Is("1.8"), "growth per try"),
            key("retransmit_tries", Is("5"), "retransmissions before the peer is given up"),
            key(
                "cookie_threshold",
                Is("30"),
                "half-open IKE SAs from which a cookie is asked (RFC 7296 §2.6)",
            ),
            key(
                "puzzle_threshold",
                Is("5000"),
                "half-open IKE SAs from which a [puzzle](configuration.md#puzzles) has to be solved besides (RFC 8019)",
            ),
            key(
                "puzzle_difficulty",
                Is("18"),
                "bits of the hardest puzzle that is asked: one more doubles the work",
            ),
            key(
                "puzzle_auth_difficulty",
                Is("10"),
                "bits of the puzzle that whoever has solved one has to solve again in IKE_AUTH, before what it sends costs a key exchange (RFC 8019 §7.2); `0`: none",
            ),
            key(
                "puzzle_solved",
                Is("20"),
                "bits of the hardest puzzle that we solve as initiator; `0`: none",
            ),
            key("half_open_limit", Is("10000"), "half-open IKE SAs kept at once"),
            key(
                "block_threshold",
                Is("100"),
                "half-open IKE SAs kept at once of one source: an IPv4 address, or an IPv6 /64. Keep it above `cookie_threshold`, so that nobody can use it up with forged addresses",
            ),
            key(
                "unauthenticated_limit",
                Is("100"),
                r#"IKE SAs kept at once with peers that prove nothing (`remote.auth = "null"`)"#,
            ),
            key("half_open_timeout", Is(r#""30s""#), "how long a responder waits for IKE_AUTH"),
            key(
                "fragment_size",
                Is("1280"),
                "octets of the IP packets that fragments of IKE messages go in; `0`: 576 with IPv4, 1280 with IPv6",
            ),
            key("keep_alive", Is(r#""20s""#), "interval of NAT keepalives; 0 is off"),
        ],
    },
    Table {
        path: "connections.NAME",
        about: "A peer, or all peers that are treated alike.",
        keys: &[
            key("version", Is("2"), "of IKE; `0` is the same, and `1` is refused"),
            key("local_addrs", Says("any"), "our addresses"),
            key(
                "interface",
                Absent,
                "a TUN device of its own, which Portcullis makes: the kernel's routes choose what goes into the tunnels, and what comes out of them the kernel takes on. Connections with the same one share it; inner addresses of different ones may be the same. See [route-based operation](route-based.md)",
            ),
            key(
                "remote_addrs",
                Says("any"),
                "the peer's: addresses, prefixes or `%any`; the first address is initiated to. Names are not resolved",
            ),
            key(
                "proposals",
                Says("secure defaults"),
                r#"e.g. `"aes256gcm16-prfsha384-x25519"`, in order of preference; see [the guide](configuration.md#proposals)"#,
            ),
            key("local", Required, "how we authenticate, see [the guide](configuration.md#local-and-remote)"),
            key("remote", Required, "how the peer must"),
            key("encap", Is("false"), "UDP encapsulation even without a NAT"),
            key(
                "mobike",
                Is("true"),
                "an IKE SA and its tunnels outlive the addresses they began with (RFC 4555), if the peer is for it: the end that began it may move, within `local_addrs` of its own and `remote_addrs` of the other; what further addresses `local_addrs` allows, the peer is told. IKE goes on from UDP 4500, also without a NAT",
            ),
            key(
                "quick_crash_detection",
                Is("true"),
                "an end that has lost its state proves it to the other, which then begins anew at once (RFC 6290); see [the guide](configuration.md#when-a-peer-is-restarted)",
            ),
            key(
                "session_resumption",
                Is("false"),
                "an end that has lost its IKE SA, because the peer fell silent, goes on from it with a ticket (RFC 5723): without key exchange and signatures, so that whoever has learned the old keys can read what follows. Both ends need it, and neither may use EAP; see [the guide](configuration.md#when-a-gateway-falls-silent)",
            ),
            key(
                "follow_redirects",
                Is("true"),
                "as a client we go where the gateway sends us (RFC 5685); who is there has to prove to be `remote` all the same",
            ),
            key(
                "redirect_when",
                Is(r#""authenticated""#),
                r#"which clients are sent to `redirect_to`: `"authenticated"`: each that has proved who it is; `"at_once"`: each at its first message, which costs nothing, and chosen by addresses alone; `"overloaded"`: at its first message too, but only while so many IKE SAs are half-open that cookies are asked for (`ike.cookie_threshold`)"#,
            ),
            key(
                "redirect_to",
                Absent,
                "address of another gateway, to which clients that take it are sent in place of being served; see also `portcullis redirect`",
            ),
            key(
                "dpd_delay",
                Is("0"),
                "silence, of IKE and of ESP, after which the peer is asked whether it lives; `0`: off",
            ),
            key(
                "rekey_time",
                Is(r#""4h""#),
                "age at which an IKE SA is rekeyed; `0`, and the default beside `reauth_time`: never",
            ),
            key(
                "reauth_time",
                Says("off, which `0` is too"),
                "age of its authentication at which the end that began an IKE SA makes it anew, with its children, and then deletes the old one; the other end tells it this time (AUTH_LIFETIME, RFC 4478), and lets the IKE SA end `over_time` later. What a peer tells us so counts where it is shorter",
            ),
            key(
                "over_time",
                Says("10 % of the longer"),
                "how long after that the IKE SA ends if neither has succeeded",
            ),
            key(
                "rand_time",
                Says("`over_time`"),
                "both come earlier by a random part of this; at most half of the longer by default",
            ),
            key(
                "fragmentation",
                Is(r#""yes""#),
                r#"IKE messages that are too long for the path go in fragments (RFC 7383) if the peer takes them: `"yes"`, which `"force"` means too; `"accept"`: they are taken, not sent; `"no"`: neither"#,
            ),
            key(
                "childless",
                Is("\"allow\""),
                "IKE SAs that begin without a child (RFC 6023), whose children all have the key exchange of their `esp_proposals`: `\"allow\"`: the peer may begin one; `\"prefer\"`: we do too where the peer takes it; `\"force\"`: always, whoever begins, so that no child comes of IKE_AUTH; `\"never\"`",
            ),
            key(
                "ocsp",
                Is(r#""reply""#),
                r#"OCSP responses inside IKE (RFC 4806): `"reply"`: a peer that asks for them gets those about our certificates, which we fetch from their responders; `"request"`: we ask the peer for them, and believe them as if its responder had been asked; `"both"`; `"never"`"#,
            ),
            key(
                "ppk_id",
                Absent,
                "name of the post-quantum pre-shared key (RFC 8784) that we begin an IKE SA with; as a responder we take any of `[secrets.ppk-NAME]`",
            ),
            key(
                "ppk_required",
                Is("false"),
                "without one there is no IKE SA; else a peer that lacks it is met without",
            ),
            key(
                "pools",
                Absent,
                "names of [`[pools]`](configuration.md#poolsname) that the peer gets its inner addresses from: for each family that it asks for, the first with a free address",
            ),
            key(
                "vips",
                Absent,
                r#"as initiator, inner addresses to ask the peer for: one of each family at most; `"0.0.0.0"` and `"::"` for any. They are put on `gateway.tun` while the IKE SA lives, and the host's traffic into the tunnel comes from them. Without one the IKE SA is closed (`NO_ADDRESS_ASSIGNED`). Name servers that the peer tells are logged, not installed"#,
            ),
            key(
                "unique",
                Is(r#""no""#),
                r#"other IKE SAs of the same two identities, when one is authenticated: `"no"`: go if the peer says INITIAL_CONTACT; `"replace"`: go; `"keep"`: the new one is refused, a reauthentication too; `"never"`: stay"#,
            ),
            key("children", Required, "`[connections.NAME.children.CHILD]` tables, one at least"),
        ],
    },
    Table {
        path: "connections.NAME.local",
        about: "How we authenticate.",
        keys: &[
            key(
                "auth",
                Required,
                r#"`"psk"`; `"pubkey"`: any signature; strongSwan's constraints, see [the guide](configuration.md#local-and-remote); EAP, see [there](configuration.md#eap); or `"null"`: [no proof at all](configuration.md#no-proof-at-all)"#,
            ),
            key(
                "id",
                Says("the certificate's subject, else our address"),
                "our [identity](configuration.md#identities)",
            ),
            key("certs", Absent, "our certificates; the one that a CA of the peer's vouches for is used"),
            key("pubkeys", Absent, "raw public keys instead of certificates (RFC 7670)"),
            key("eap_id", Says("`id`"), "with EAP: our name"),
            key(
                "eap_inner",
                Says(r#"`"eap-mschapv2"`"#),
                r#"with EAP-TTLS: how the password is proven inside, `"eap-mschapv2"`, `"mschapv2"`, `"mschap"`, `"chap"`, or `"pap"`, which gives it to the server"#,
            ),
            key(
                "aaa_id",
                Says("the gateway"),
                r#"with EAP over TLS: whom the server's certificate has to be for, or `"%any"`"#,
            ),
        ],
    },
    Table {
        path: "connections.NAME.remote",
        about: "How the peer has to.",
        keys: &[
            key("auth", Required, "as in `local`"),
            key(
                "id",
                Says("anyone"),
                "the peer's [identity](configuration.md#identities), or a pattern for it",
            ),
            key("certs", Absent, "the peer's certificate has to be one of these, and needs no CA"),
            key("cacerts", Says("all of `x509ca`"), "CAs that vouch for the peer"),
            key("pubkeys", Absent, "raw public keys instead of certificates (RFC 7670); wants an `id`"),
            key(
                "eap_id",
                Says("not asked"),
                r#"with EAP: the gateway asks for the user's name (EAP-Identity), which has to fit this: `"%any"`, or e.g. `"*@example.org"`. Where it is not asked, a user is who he is in IKE"#,
            ),
            key(
                "revocation",
                Is(r#""relaxed""#),
                r#"`"strict"`: a certificate of unknown status is refused; `"ifuri"`: if it names an OCSP responder or a CRL; `"relaxed"`: only what is known to be revoked; OCSP responders and CRLs are asked, and whoever does not answer is none the worse for it. Whom to ask certificates say, and [`authorities`](#authoritiesname)"#,
            ),
        ],
    },
    Table {
        path: "connections.NAME.children.CHILD",
        about: r#"What is protected, and how; or, with `mode = "pass"` and `"drop"`, what is not."#,
        keys: &[
            key(
                "local_ts",
                Is(r#""dynamic""#),
                "our side: `10.1.0.0/16`, `10.1.0.1-10.1.0.9`, `10.1.0.0/16[tcp/443]`, or `dynamic`: our address, the inner one where there are `vips`",
            ),
            key(
                "remote_ts",
                Is(r#""dynamic""#),
                "the peer's side; `dynamic`: its address, the inner one that it got from our `pools`",
            ),
            key(
                "esp_proposals",
                Says("secure defaults"),
                r#"e.g. `"aes256gcm16-esn"`, `"aes128gcm16-aes256gcm16-esn-noesn"`, `["chacha20poly1305", "aes256-sha256"]`; see [the guide](configuration.md#esp_proposals)"#,
            ),
            key(
                "start_action",
                Is(r#""none""#),
                r#"`"start"`: at once; `"trap"`: by the first packet, which waits for it; `"none"`: by the peer or by `initiate`. All three protect alike"#,
            ),
            key("replay_window", Is("1024"), "packets: 0 (off) or 64 to 8192"),
            key(
                "per_cpu_sas",
                Is("false"),
                "each worker may have a CHILD SA of its own beside the one that all share (RFC 9611), so that one tunnel is not the work of one core; the peer must have it too. A number: at most so many, whoever asks for them; `true`: twice as many as there are workers; see [the guide](configuration.md#one-tunnel-on-several-cores)",
            ),
            key("rekey_time", Is(r#""1h""#), "age at which a CHILD SA is rekeyed; `0` is never"),
            key("life_time", Says("110 % of `rekey_time`"), "age at which it ends if that has not succeeded"),
            key("rand_time", Says("the difference"), "it is rekeyed earlier by a random part of this"),
            key(
                "rekey_bytes",
                Is("0"),
                "octets of inner packets, or packets, in either direction, after which it is rekeyed; `0`: off",
            ),
            key(
                "rekey_packets",
                Is("0"),
                "octets of inner packets, or packets, in either direction, after which it is rekeyed; `0`: off",
            ),
            key("life_bytes", Says("110 % of `rekey_*`"), "after which it ends"),
            key("life_packets", Says("110 % of `rekey_*`"), "after which it ends"),
            key("rand_bytes", Says("the difference"), "as `rand_time`"),
            key("rand_packets", Says("the difference"), "as `rand_time`"),
            key(
                "mode",
                Is(r#""tunnel""#),
                r#"`"tunnel"`: through an SA; `"transport"`: ESP between the two ends' own addresses, behind their packets' own IP header, see [the guide](configuration.md#transport-mode); `"pass"` and `"drop"`: [without an SA](configuration.md#pass-and-drop)"#,
            ),
            key(
                "priority",
                Is("0"),
                "which of several policies that match a packet decides: the lowest, see [the guide](configuration.md#pass-and-drop); `0`: by mode",
            ),
            key(
                "copy_dscp",
                Is(r#""out""#),
                r#"DSCP between inner and outer header: `"out"`: into the tunnel; `"in"`: out of it (who can change it on the way, changes the inner one); `"yes"`: both; `"no"`"#,
            ),
            key("outer_dscp", Says("`0`"), "the outer DSCP where it is not copied, 0 to 63"),
            key(
                "copy_ecn",
                Is("true"),
                "the ECN field into the outer header (RFC 6040's normal mode); `false`: it is zero there (compatibility mode). Out of the tunnel RFC 6040's table holds in any case",
            ),
            key(
                "copy_df",
                Is(r#""yes""#),
                r#"the outer IPv4 header's DF: `"yes"`: the inner one's, set for IPv6; `"no"`: clear, so that routers, and we ourselves, may fragment what is sealed; `"set"`"#,
            ),
            key(
                "esp_fragmentation",
                Is(r#""before""#),
                r#"where packets too big for the tunnel, and without DF, are cut: `"before"` encryption, so that their receiver puts them together, or `"after"`, so that the peer's gateway does"#,
            ),
            key(
                "mss_clamp",
                Says("off"),
                r#"the segment size that TCP announces through the tunnel, either way, is lowered to this many octets (88 to 65495) or, with `"mtu"`, to what the tunnel takes"#,
            ),
            key(
                "rate_out",
                Absent,
                "how much goes into each tunnel of the child, in bits of inner packets; see [the guide](configuration.md#rates)",
            ),
            key(
                "burst_out",
                Says("a tenth of a second of `rate_out`, at least 16384"),
                "octets that may go at once after a pause",
            ),
            key("rate_in", Absent, "how much comes out of each tunnel of the child, likewise"),
            key(
                "burst_in",
                Says("a tenth of a second of `rate_in`, at least 16384"),
                "octets that may come at once after a pause",
            ),
            key(
                "tfc_padding",
                Is("0"),
                r#"inner packets are padded to so many octets at least, as far as they fit, or with `"mtu"` to all that fits; not for peers that do not take it; `0`: off"#,
            ),
            key(
                "updown",
                Absent,
                "a program, run without a shell when a CHILD SA has come up and when it is gone, with strongSwan's environment; see [hooks](hooks.md)",
            ),
            key(
                "dpd_action",
                Says("`restart` with `start_action = \"start\"`, else `clear`"),
                "when the peer does not answer any more: `clear`: it stays down; `trap`: the next packet that matches brings it up; `restart`: it is tried until it is up (`none`, `start`: the same as `clear`, `restart`)",
            ),
            key(
                "close_action",
                Says("`start` with `start_action = \"start\"`, else `none`"),
                "when the peer has closed it, or its IKE SA: `none`, `trap`, `start`, likewise",
            ),
            key(
                "inactivity",
                Is("0"),
                "closed after so long without a packet either way, and not brought up by itself; its IKE SA stays; `0`: never",
            ),
        ],
    },
    Table {
        path: "devices.NAME",
        about: "A TUN device that connections name as their `interface`, and that is there even if none does; see [route-based operation](route-based.md).",
        keys: &[
            key(
                "rate_in",
                Says("no limit"),
                "bits of inner packets a second that may come out of all tunnels of the device together; the rates of children count besides",
            ),
            key("rate_out", Says("no limit"), "the same of what goes into them"),
            key(
                "burst_in",
                Says("a tenth of a second of `rate_in`, 16384 at least"),
                "octets that may come at once after a pause",
            ),
            key(
                "burst_out",
                Says("a tenth of a second of `rate_out`, 16384 at least"),
                "the same of what goes into them",
            ),
        ],
    },
    Table {
        path: "pools.NAME",
        about: "Inner addresses for peers, with what they are told besides.",
        keys: &[
            key(
                "addrs",
                Required,
                "`10.3.0.0/16`, `10.3.0.10-10.3.0.99` or one address, of either family. A prefix is without its first address, and without its last if IPv4. Pools must not overlap",
            ),
            key("dns", Absent, "name servers"),
            key("nbns", Absent, "NetBIOS name servers"),
            key(
                "subnet",
                Absent,
                "networks that the peer should reach through the tunnel (INTERNAL_IP4_SUBNET, INTERNAL_IP6_SUBNET); both mean the same",
            ),
            key(
                "split_include",
                Absent,
                "networks that the peer should reach through the tunnel (INTERNAL_IP4_SUBNET, INTERNAL_IP6_SUBNET); both mean the same",
            ),
            key("domains", Absent, "domains whose names these name servers know (RFC 8598)"),
        ],
    },
    Table {
        path: "authorities.NAME",
        about: "Where the status of a CA's certificates is to be had, besides what they say themselves.",
        keys: &[
            key("cacert", Required, "the CA's certificate, in the directory `x509ca` or by its path"),
            key("ocsp_uris", Absent, "OCSP responders (RFC 6960), asked first and in this order"),
            key("crl_uris", Absent, "CRLs, fetched where no responder has answered"),
        ],
    },
    Table {
        path: "secrets.NAME",
        about: "A pre-shared key. Secrets never appear in errors or logs.",
        keys: &[
            key(
                "secret",
                Required,
                "the pre-shared key: text, `0x` and hexadecimal digits, or `0s` and base64",
            ),
            key(
                "ids",
                Says("anyone"),
                "identities of the ends that share it; the secret with most identities matching is used",
            ),
        ],
    },
    Table {
        path: "secrets.eap-NAME",
        about: "A user's password.",
        keys: &[
            key("secret", Required, "the password"),
            key("id", Required, "the user's name, or several; case counts for nothing"),
        ],
    },
    Table {
        path: "secrets.ppk-NAME",
        about: "A post-quantum pre-shared key (RFC 8784).",
        keys: &[
            key("secret", Required, "32 random octets or more, written as a pre-shared key is"),
            key("ids", Required, "the names that `ppk_id` may call it by"),
        ],
    },
    Table {
        path: "secrets.private-NAME",
        about: "A private key that is not in the directory `private`, or is encrypted.",
        keys: &[
            key("file", Required, "the file, in the directory `private` or by its path"),
            key("secret", Absent, "its passphrase"),
        ],
    },
    Table {
        path: "radius",
        about: r#"AAA servers that users of `auth = "eap-radius"` are asked about."#,
        keys: &[
            key(
                "servers",
                Required,
                "`[[radius.servers]]` tables, asked in this order; one that does not answer comes last for a minute",
            ),
            key("nas_identifier", Is(r#""portcullis""#), "who we are"),
            key(
                "retransmit_timeout",
                Is(r#""2s""#),
                "how long the first answer is waited for, by which factor longer each next one, and how often a server is asked before the next one is",
            ),
            key(
                "retransmit_base",
                Is("1.4"),
                "how long the first answer is waited for, by which factor longer each next one, and how often a server is asked before the next one is",
            ),
            key(
                "retransmit_tries",
                Is("4"),
                "how long the first answer is waited for, by which factor longer each next one, and how often a server is asked before the next one is",
            ),
            key("class_group", Is("false"), "Class attributes are groups too; Filter-Id always is"),
            key("accounting", Is("false"), "sessions are reported: start, interim, stop (RFC 2866)"),
            key(
                "accounting_interval",
                Is("0"),
                "how often in between, if the server does not say it (Acct-Interim-Interval); `0`: none",
            ),
            key(
                "dae",
                Absent,
                r#"a table `[radius.dae]`: servers may end a session (Disconnect-Request) or give it another time to live (CoA-Request with Session-Timeout) (RFC 5176). Sessions are named by Acct-Session-Id, User-Name, Calling-Station-Id, Framed-IP-Address or Framed-IPv6-Address"#,
            ),
        ],
    },
    Table {
        path: "radius.servers",
        about: "One AAA server.",
        keys: &[
            key("address", Required, "its IP address"),
            key("secret", Required, "the secret that we share with it"),
            key("name", Says("its number"), "for logs and errors"),
            key("auth_port", Is("1812"), "its UDP ports"),
            key("acct_port", Is("1813"), "its UDP ports"),
        ],
    },
    Table {
        path: "radius.dae",
        about: "Requests that AAA servers make of us (RFC 5176).",
        keys: &[
            key("secret", Required, "the secret that we share with those who ask"),
            key("listen", Is(r#""0.0.0.0""#), "our address"),
            key("port", Is("3799"), "our UDP port"),
        ],
    },
    Table {
        path: "audit",
        about: "The audit trail: a JSON object a line for each session's start and end, and for each failed authentication; see [the page](audit.md).",
        keys: &[
            key(
                "file",
                Required,
                "where the lines go; its directory has to be there, and the daemon's user may write in it. Opened anew by a reload and by SIGUSR1",
            ),
            key(
                "failures_per_second",
                Is("10"),
                "failed authentications that are written, at most; the others are counted; `0`: none",
            ),
        ],
    },
];
