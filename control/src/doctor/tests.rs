//! The checks against machines that are made of files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const CONFIG: &str = r#"
[gateway]
workers = [1]
[[gateway.interfaces]]
name = "outside0"
role = "outside"
[[gateway.interfaces]]
name = "inside0"
role = "inside"
[connections.site]
local_addrs = ["192.0.2.1"]
remote_addrs = ["192.0.2.2"]
local = { auth = "psk" }
remote = { auth = "psk" }
[connections.site.children.net]
local_ts = ["10.1.0.0/24"]
remote_ts = ["10.2.0.0/24"]
[secrets.ike]
secret = "0x000102030405060708090a0b0c0d0e0f"
"#;

/// A kernel that answers what it was told.
#[derive(Debug, Clone)]
struct Fake {
    links: BTreeMap<String, LinkState>,
    ethtool: BTreeMap<String, Ethtool>,
    synchronised: bool,
    landlock: Option<u32>,
}

impl Kernel for Fake {
    fn link(&self, interface: &str) -> Option<LinkState> {
        self.links.get(interface).copied()
    }

    fn ethtool(&self, interface: &str) -> Ethtool {
        self.ethtool.get(interface).cloned().unwrap_or_default()
    }

    fn clock_synchronised(&self) -> Option<bool> {
        Some(self.synchronised)
    }

    fn landlock(&self) -> Option<u32> {
        self.landlock
    }
}

/// A machine on which everything is as it should be, until a test changes it.
struct Machine {
    root: tempfile::TempDir,
    kernel: Fake,
    config: String,
}

impl Machine {
    fn new() -> Self {
        let link = LinkState { mtu: 1500, up: true, carrier: true, queues: 1 };
        let outside = LinkState { mtu: 1600, ..link };
        let ice = Ethtool { driver: Some("ice".to_owned()), on: vec![], esp_hash: Some(0xf0) };
        let links = [("outside0".to_owned(), outside), ("inside0".to_owned(), link)];
        let ethtool = ["outside0", "inside0"].map(|name| (name.to_owned(), ice.clone()));
        let kernel =
            Fake { links: links.into(), ethtool: ethtool.into(), synchronised: true, landlock: Some(6) };
        let machine = Self { root: tempfile::tempdir().unwrap(), kernel, config: CONFIG.to_owned() };
        for (path, text) in [
            ("proc/self/status", "Name:\tportcullis\nCapEff:\t000001ffffffffff\n"),
            (
                "proc/self/limits",
                "Limit  Soft Limit  Hard Limit  Units\nMax locked memory         8388608 8388608 bytes\n",
            ),
            ("proc/sys/kernel/osrelease", "6.12.5-amd64\n"),
            ("proc/net/protocols", "protocol  size sockets\nXDP       1024      0\n"),
            ("proc/sys/net/core/bpf_jit_enable", "1\n"),
            ("proc/mounts", "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n"),
            ("dev/net/tun", ""),
            (
                "proc/cpuinfo",
                "processor : 0\nmodel name : A Processor\nflags : aes pclmulqdq ssse3 sse4_1 avx2 bmi2 avx512f avx512bw \
                 avx512vl vaes vpclmulqdq\n",
            ),
            ("sys/devices/system/cpu/online", "0-3\n"),
            (
                "proc/interrupts",
                " 24: 1 0 PCI-MSI ice-outside0-TxRx-0\n 25: 1 0 PCI-MSI ice-inside0-TxRx-0\n",
            ),
            ("proc/irq/24/effective_affinity_list", "2\n"),
            ("proc/irq/25/effective_affinity_list", "3\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
            ("proc/meminfo", "HugePages_Free:        0\n"),
            ("proc/sys/kernel/seccomp/actions_avail", "kill_process errno allow\n"),
            ("proc/sys/net/ipv4/ip_forward", "1\n"),
            ("proc/sys/net/ipv4/conf/all/rp_filter", "0\n"),
            ("proc/sys/net/ipv4/conf/default/rp_filter", "2\n"),
            ("proc/sys/net/ipv4/conf/outside0/rp_filter", "0\n"),
            ("proc/net/udp", "  sl  local_address rem_address\n"),
        ] {
            machine.write(path, text);
        }
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn examine(&self) -> Report {
        let (config, _) = Config::parse(&self.config, self.root.path()).unwrap();
        let file = self.root.path().join("portcullis.toml");
        examine(&Host::new(self.root.path(), Box::new(self.kernel.clone())), &file, Some(&config))
    }

    /// The only finding that is not as it should be.
    fn complaint(&self) -> Finding {
        let mut findings = self.examine().findings;
        findings.retain(|finding| finding.severity != Severity::Ok);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        findings.remove(0)
    }

    fn complains(&self, check: &str, severity: Severity, fix: &str) {
        let found = self.complaint();
        assert_eq!((found.check, found.severity), (check, severity), "{found:#?}");
        assert!(found.fix.contains(fix), "{found:#?}");
        assert!(!found.seen.is_empty() && !found.expected.is_empty(), "{found:#?}");
    }
}

#[test]
fn a_machine_that_is_as_it_should_be_gets_no_complaint() {
    let report = Machine::new().examine();
    let complaints: Vec<_> =
        report.findings.iter().filter(|finding| finding.severity != Severity::Ok).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let checks: std::collections::BTreeSet<_> = report.findings.iter().map(|finding| finding.check).collect();
    let expected = [
        "af_xdp",
        "bpf",
        "bpffs",
        "clock",
        "cores",
        "cpu",
        "driver",
        "forwarding",
        "hugepages",
        "interface",
        "irq",
        "kernel",
        "memlock",
        "mtu",
        "offloads",
        "ports",
        "queues",
        "rp_filter",
        "rss",
        "sandbox",
        "tun",
    ];
    assert!(checks.iter().eq(expected.iter()), "{checks:?}");
}

/// A file of the machine that is wrong, and what is said about it.
#[test]
fn each_wrong_file_is_one_finding_with_its_fix() {
    for (path, text, check, severity, fix) in [
        ("proc/sys/kernel/osrelease", "5.10.0-28-amd64", "kernel", Severity::Error, "linux-image"),
        ("proc/sys/kernel/osrelease", "6.1.0", "kernel", Severity::Info, ""),
        ("proc/net/protocols", "UDP 1 2", "af_xdp", Severity::Error, "linux-image"),
        ("proc/sys/net/core/bpf_jit_enable", "0", "bpf", Severity::Warning, "bpf_jit_enable=1"),
        ("proc/mounts", "bpf /run/bpf bpf rw 0 0", "bpffs", Severity::Error, "mount -t bpf bpf /sys/fs/bpf"),
        ("proc/cpuinfo", "flags : sse4_1", "cpu", Severity::Warning, ""),
        ("proc/cpuinfo", "flags : aes pclmulqdq ssse3 sse4_1 avx2", "cpu", Severity::Info, ""),
        ("sys/devices/system/cpu/online", "0", "cores", Severity::Error, "workers = [0]"),
        (
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
            "powersave",
            "cores",
            Severity::Info,
            "cpupower -c 1 frequency-set -g performance",
        ),
        (
            "proc/irq/24/effective_affinity_list",
            "1",
            "irq",
            Severity::Warning,
            "echo 0 > /proc/irq/24/smp_affinity_list",
        ),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always [madvise] never",
            "hugepages",
            Severity::Info,
            "echo always",
        ),
        (
            "proc/sys/net/ipv4/ip_forward",
            "0",
            "forwarding",
            Severity::Warning,
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        (
            "proc/sys/net/ipv4/conf/outside0/rp_filter",
            "1",
            "rp_filter",
            Severity::Warning,
            "net.ipv4.conf.outside0.rp_filter=2",
        ),
    ] {
        let machine = Machine::new();
        machine.write(path, text);
        machine.complains(check, severity, fix);
    }
}

#[test]
fn a_loose_filter_on_all_interfaces_makes_a_strict_one_loose() {
    let machine = Machine::new();
    machine.write("proc/sys/net/ipv4/conf/outside0/rp_filter", "1");
    machine.write("proc/sys/net/ipv4/conf/all/rp_filter", "2");
    assert_eq!(machine.examine().count(Severity::Warning), 0);
}

#[test]
fn a_kernel_that_cannot_shut_the_daemon_in_is_named_and_so_is_a_configuration_that_does_not_want_it() {
    let mut machine = Machine::new();
    machine.kernel.landlock = None;
    machine.complains("sandbox", Severity::Warning, "lsm=landlock");
    machine.config = CONFIG.replace("[gateway]", "[gateway]\nsandbox = false");
    machine.complains("sandbox", Severity::Warning, "sandbox = true");
    let machine = Machine::new();
    fs::remove_file(machine.root.path().join("proc/sys/kernel/seccomp/actions_avail")).unwrap();
    machine.complains("sandbox", Severity::Warning, "linux-image");
}

#[test]
fn without_the_privilege_locked_memory_must_suffice() {
    let machine = Machine::new();
    machine.write("proc/self/status", "CapEff:\t0000000000081000\n");
    machine.complains("memlock", Severity::Error, "LimitMEMLOCK=infinity");
    machine.write("proc/self/limits", "Max locked memory         unlimited unlimited bytes\n");
    assert_eq!(machine.examine().count(Severity::Error), 0);
}

#[test]
fn another_ike_daemon_is_named_with_the_way_to_stop_it() {
    let line = "  1: 00000000:11940 00000000:0000 07 0:0 00:00 0 0 0 4711 2 0 0\n".replace("11940", "1194");
    for (name, severity, fix) in [
        ("charon-systemd", Severity::Error, "systemctl disable --now strongswan.service"),
        ("mystery", Severity::Error, "kill 812"),
    ] {
        let machine = Machine::new();
        machine.write("proc/net/udp", &line);
        machine.write("proc/812/comm", name);
        fs::create_dir_all(machine.root.path().join("proc/812/fd")).unwrap();
        symlink("socket:[4711]", machine.root.path().join("proc/812/fd/7")).unwrap();
        machine.complains("ports", severity, fix);
        assert_eq!(machine.complaint().subject, "UDP 4500");
        assert!(machine.complaint().seen.contains(name));
        machine.write("proc/812/comm", "portcullis");
        assert_eq!(machine.examine().count(Severity::Error), 0, "our own daemon may hold it");
    }
}

/// An interface that is wrong, and what is said about it.
#[test]
fn each_wrong_interface_is_one_finding_with_its_fix() {
    let change = |link: fn(&mut LinkState), ethtool: fn(&mut Ethtool)| {
        let mut machine = Machine::new();
        link(machine.kernel.links.get_mut("outside0").unwrap());
        ethtool(machine.kernel.ethtool.get_mut("outside0").unwrap());
        machine
    };
    change(|link| link.up = false, |_| {}).complains("interface", Severity::Error, "ip link set outside0 up");
    change(|link| link.carrier = false, |_| {}).complains("interface", Severity::Warning, "ethtool outside0");
    change(|link| link.queues = 4, |_| {}).complains(
        "queues",
        Severity::Info,
        "ethtool -L outside0 combined 1",
    );
    change(|link| link.mtu = 9000, |_| {}).complains(
        "frames",
        Severity::Error,
        "ip link set outside0 mtu 3818",
    );
    change(|link| link.mtu = 1500, |_| {}).complains("mtu", Severity::Info, "ip link set outside0 mtu 1556");
    change(|_| {}, |ethtool| ethtool.driver = Some("r8169".to_owned())).complains(
        "driver",
        Severity::Warning,
        "",
    );
    change(|_| {}, |ethtool| ethtool.on = vec![Offload::Lro]).complains(
        "offloads",
        Severity::Error,
        "lro off",
    );
    let veth = change(
        |_| {},
        |ethtool| (ethtool.driver, ethtool.on) = (Some("veth".to_owned()), vec![Offload::TxChecksum]),
    );
    veth.complains("offloads", Severity::Warning, "ethtool -K outside0 tx off");
    let tagged = change(|_| {}, |ethtool| ethtool.on = vec![Offload::RxVlan]);
    let vlans = |below| {
        let head = "VLAN Dev name\t | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\n";
        tagged.write("proc/net/vlan/config", &format!("{head}uplink         | 7  | {below}\n"));
    };
    vlans("outside");
    assert!(tagged.examine().findings.iter().all(|finding| finding.severity == Severity::Ok));
    vlans("outside0");
    tagged.complains("offloads", Severity::Warning, "ethtool -K outside0 rxvlan off");
    let mut missing = Machine::new();
    missing.kernel.links.remove("inside0");
    missing.complains("interface", Severity::Error, "ip -brief link");
}

#[test]
fn queues_that_nobody_serves_are_an_error() {
    let mut machine = Machine::new();
    machine.config = CONFIG.replacen("role = \"outside\"", "role = \"outside\"\nqueues = 1", 1);
    machine.kernel.links.get_mut("outside0").unwrap().queues = 2;
    machine.complains("queues", Severity::Error, "ethtool -L outside0 combined 1");
}

#[test]
fn esp_on_one_queue_is_noticed_where_there_are_several() {
    let mut machine = Machine::new();
    machine.kernel.links.get_mut("outside0").unwrap().queues = 2;
    let findings = |machine: &Machine| {
        let report = machine.examine();
        report.findings.into_iter().find(|found| found.check == "rss" && found.subject == "outside0").unwrap()
    };
    for (hash, severity) in [
        (Some(0xf0), Severity::Ok),
        (Some(0x30), Severity::Info),
        (Some(0), Severity::Warning),
        (None, Severity::Info),
    ] {
        machine.kernel.ethtool.get_mut("outside0").unwrap().esp_hash = hash;
        assert_eq!(findings(&machine).severity, severity, "{hash:?}");
    }
}

#[test]
fn an_engine_that_the_processor_cannot_run_is_an_error() {
    let mut machine = Machine::new();
    machine.config = CONFIG.replacen("workers = [1]", "workers = [1]\naead_engine = \"vaes512\"", 1);
    machine.write("proc/cpuinfo", "flags : aes pclmulqdq ssse3 sse4_1 avx2 vaes vpclmulqdq\n");
    machine.complains("cpu", Severity::Error, "aead_engine");
    assert!(machine.complaint().seen.contains("lacks `avx512f`"));
}

#[test]
fn a_driver_without_native_xdp_is_an_error_where_native_is_asked_for() {
    let mut machine = Machine::new();
    machine.config = CONFIG.replacen("role = \"outside\"", "role = \"outside\"\nmode = \"native\"", 1);
    machine.kernel.ethtool.get_mut("outside0").unwrap().driver = Some("r8169".to_owned());
    machine.complains("driver", Severity::Error, "mode = \"auto\"");
}

#[test]
fn a_clock_that_nobody_keeps_right_is_a_warning() {
    let mut machine = Machine::new();
    machine.kernel.synchronised = false;
    machine.complains("clock", Severity::Warning, "timedatectl");
}

#[test]
fn ipv6_forwarding_matters_where_the_configuration_speaks_ipv6() {
    let mut machine = Machine::new();
    machine.write("proc/sys/net/ipv6/conf/all/forwarding", "0");
    assert_eq!(machine.examine().count(Severity::Warning), 0);
    machine.config = CONFIG.replace("\"10.2.0.0/24\"", "\"10.2.0.0/24\", \"2001:db8::/48\"");
    machine.complains("forwarding", Severity::Warning, "net.ipv6.conf.all.forwarding=1");
}

#[test]
fn a_service_that_may_not_read_its_configuration_or_keys_is_an_error() {
    use std::os::unix::fs::PermissionsExt as _;
    let machine = Machine::new();
    let root = machine.root.path().to_owned();
    let mode =
        |path: &str, mode| fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    machine.write("portcullis.toml", "");
    machine.write("private/gw.key", "no key");
    for (path, bits) in
        [("", 0o755), ("private", 0o755), ("private/gw.key", 0o600), ("portcullis.toml", 0o600)]
    {
        mode(path, bits);
    }
    // Where it is no service, whoever starts it is root.
    machine.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nportcullis:x:65534:65534::/:/bin/false\n");
    assert!(machine.examine().findings.iter().all(|finding| finding.check != "access"));
    machine.write("etc/systemd/system/portcullis.service", "");
    let complaint = machine.complaint();
    assert_eq!((complaint.check, complaint.severity), ("access", Severity::Error));
    let list = format!("{0}/portcullis.toml {0}/private/gw.key", root.display());
    assert_eq!(complaint.fix, format!("chgrp portcullis {list} && chmod g+rX {list}"));
    mode("portcullis.toml", 0o644);
    mode("private", 0o700);
    let fix = machine.complaint().fix;
    assert!(fix.contains("/private ") && !fix.contains("portcullis.toml"), "{fix}");
    mode("private", 0o755);
    mode("private/gw.key", 0o644);
    assert!(
        machine
            .examine()
            .findings
            .iter()
            .any(|finding| finding.check == "access" && finding.severity == Severity::Ok)
    );
}
