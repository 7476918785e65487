//! Checks about kernel, processor and memory.

use portcullis_gateway::dataplane::EngineKind;

use super::host::Host;
use super::{Findings, Severity};
use crate::config::Config;

/// The oldest kernel that the XDP program is tested with.
const KERNEL: (u32, u32) = (6, 1);
/// From here on the egress guard is a TCX program, which replaces itself atomically.
const TCX: (u32, u32) = (6, 6);
/// linux/capability.h
const CAP_IPC_LOCK: u32 = 14;

pub(super) fn check(host: &Host, config: Option<&Config>, found: &mut Findings) {
    privileges(host, found);
    kernel(host, found);
    af_xdp(host, found);
    jit(host, found);
    bpffs(host, config, found);
    tun(host, found);
    processor(host, config, found);
    cores(host, config, found);
    memory_lock(host, config, found);
    huge_pages(host, found);
    clock(host, found);
    sandbox(host, config, found);
}

/// Effective capabilities of this process.
fn capabilities(host: &Host) -> Option<u64> {
    let status = host.read("proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn privileges(host: &Host, found: &mut Findings) {
    // CAP_SYS_PTRACE: to see whose sockets there are; CAP_NET_ADMIN: to ask drivers everything.
    if capabilities(host).is_some_and(|held| held >> 19 & 1 == 0 || held >> 12 & 1 == 0) {
        let expected = "root: some findings are incomplete without";
        found.add("privileges", Severity::Warning, "", "not run as root", expected, "sudo portcullis doctor");
    }
}

fn kernel(host: &Host, found: &mut Findings) {
    let Some(release) = host.read("proc/sys/kernel/osrelease") else { return };
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < KERNEL {
        let expected = format!("Linux {}.{} or newer", KERNEL.0, KERNEL.1);
        let fix = "apt-get install linux-image-amd64   # and reboot";
        found.add("kernel", Severity::Error, "", format!("Linux {release}"), expected, fix);
    } else if version < TCX {
        let seen = format!("Linux {release}: the egress guard uses clsact");
        let expected =
            format!("Linux {}.{} or newer, whose TCX links nobody removes by accident", TCX.0, TCX.1);
        found.add("kernel", Severity::Info, "", seen, expected, "");
    } else {
        found.ok("kernel", "", format!("Linux {release}"));
    }
}

fn af_xdp(host: &Host, found: &mut Findings) {
    let Some(protocols) = host.read("proc/net/protocols") else { return };
    if protocols.lines().any(|line| line.split_whitespace().next() == Some("XDP")) {
        found.ok("af_xdp", "", "the kernel has AF_XDP sockets");
    } else {
        let expected = "AF_XDP: CONFIG_XDP_SOCKETS=y";
        let fix = "apt-get install linux-image-amd64   # a distribution's kernel has it";
        found.add("af_xdp", Severity::Error, "", "the kernel has no AF_XDP sockets", expected, fix);
    }
}

fn jit(host: &Host, found: &mut Findings) {
    match host.sysctl("net.core.bpf_jit_enable") {
        Some(0) => found.add(
            "bpf",
            Severity::Warning,
            "",
            "BPF programs are interpreted",
            "compiled: the XDP program sees every packet",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => found.ok("bpf", "", "BPF programs are compiled"),
        // Without the variable there is nothing but the compiler.
        None => {}
    }
}

fn bpffs(host: &Host, config: Option<&Config>, found: &mut Findings) {
    let pins = config
        .map_or("/sys/fs/bpf/portcullis".to_owned(), |config| config.gateway.pin_dir.display().to_string());
    let Some(mounts) = host.read("proc/mounts") else { return };
    let covers =
        |mount: &str| pins == mount || pins.strip_prefix(mount).is_some_and(|rest| rest.starts_with('/'));
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        Some((fields.next()?, fields.next()?))
    });
    match mounted.rev().find(|(mount, kind)| *kind == "bpf" && covers(mount)) {
        Some((mount, _)) => found.ok("bpffs", "", format!("{pins} is on the BPF file system at {mount}")),
        None => {
            let seen = format!("{pins} (gateway.pin_dir) is on no BPF file system");
            let expected = "one: what blocks protected traffic is pinned there, and must outlive the daemon";
            found.add("bpffs", Severity::Error, "", seen, expected, "mount -t bpf bpf /sys/fs/bpf");
        }
    }
}

fn tun(host: &Host, found: &mut Findings) {
    if host.path("dev/net/tun").exists() {
        found.ok("tun", "", "/dev/net/tun is there");
    } else {
        let expected = "the TUN device: packets of the host itself go through one";
        found.add("tun", Severity::Error, "", "/dev/net/tun is missing", expected, "modprobe tun");
    }
}

/// What each engine needs, as `/proc/cpuinfo` calls it.
const ENGINES: [(EngineKind, &[&str]); 4] = [
    (
        EngineKind::Vaes512,
        &["aes", "pclmulqdq", "avx512f", "avx512bw", "avx512vl", "vaes", "vpclmulqdq", "bmi2"],
    ),
    (EngineKind::Vaes256, &["aes", "pclmulqdq", "avx2", "vaes", "vpclmulqdq"]),
    (EngineKind::AesNi, &["aes", "pclmulqdq", "ssse3", "sse4_1"]),
    (EngineKind::Portable, &[]),
];

fn processor(host: &Host, config: Option<&Config>, found: &mut Findings) {
    let Some(cpuinfo) = host.read("proc/cpuinfo") else { return };
    let value = |name: &str| {
        let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    };
    let flags: Vec<&str> = value("flags").unwrap_or_default().split_whitespace().collect();
    let missing = |kind: EngineKind| {
        let needed = ENGINES.iter().find(|(known, _)| *known == kind).map(|(_, needed)| *needed);
        needed.unwrap_or_default().iter().find(|feature| !flags.contains(feature)).copied()
    };
    let model = value("model name").unwrap_or("this processor");
    if let Some(wanted) = config.and_then(|config| config.gateway.aead_engine)
        && let Some(missing) = missing(wanted)
    {
        let seen = format!("{model} lacks `{missing}`, which aead_engine = \"{wanted}\" needs");
        let expected = "an engine that the processor runs; left out, the fastest is chosen";
        return found.add(
            "cpu",
            Severity::Error,
            "",
            seen,
            expected,
            "# aead_engine = …   # gateway: leave it out",
        );
    }
    let best = ENGINES.iter().map(|(kind, _)| *kind).find(|kind| missing(*kind).is_none());
    match best {
        Some(EngineKind::Portable) | None => {
            let lacks = missing(EngineKind::AesNi).unwrap_or("aes");
            let seen = format!("{model} lacks `{lacks}`: AES-GCM runs on the portable engine");
            let expected = "AES-NI at least: the portable engine is several times slower (in a virtual machine: let the \
                            guest see the host's processor)";
            found.add("cpu", Severity::Warning, "", seen, expected, "");
        }
        Some(EngineKind::AesNi) => {
            let seen = format!("{model}: engine aesni");
            let expected =
                "VAES and VPCLMULQDQ (Ice Lake, Zen 3 or newer), which are two to three times faster";
            found.add("cpu", Severity::Info, "", seen, expected, "");
        }
        Some(best) => found.ok("cpu", "", format!("{model}: engine {best}")),
    }
}

fn cores(host: &Host, config: Option<&Config>, found: &mut Findings) {
    let (Some(config), Some(online)) = (config, host.list("sys/devices/system/cpu/online")) else { return };
    for &core in &config.gateway.workers {
        let subject = format!("core {core}");
        if !online.contains(&(core as u64)) {
            let expected = "a core that is online: the worker runs wherever it is put";
            let last = online.last().copied().unwrap_or(0);
            let fix = format!("workers = [{last}]   # gateway");
            found.add("cores", Severity::Error, &subject, "is not online", expected, fix);
            continue;
        }
        let governor = host.read(&format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"));
        match governor.as_deref() {
            None | Some("performance") => found.ok("cores", &subject, "online, at full speed"),
            Some(governor) => {
                let seen = format!("its clock follows the load (governor {governor})");
                let expected = "full speed always: packets come in bursts shorter than a governor's reaction";
                let fix = format!("cpupower -c {core} frequency-set -g performance");
                found.add("cores", Severity::Info, &subject, seen, expected, fix);
            }
        }
    }
}

fn memory_lock(host: &Host, config: Option<&Config>, found: &mut Findings) {
    let frames = config.map_or((16_384, 4096), |config| (config.gateway.frames, config.gateway.frame_size));
    let needed = u64::from(frames.0) * u64::from(frames.1);
    if capabilities(host).is_some_and(|held| held >> CAP_IPC_LOCK & 1 == 1) {
        return found.ok("memlock", "", "CAP_IPC_LOCK: packet memory is not limited");
    }
    let Some(limits) = host.read("proc/self/limits") else { return };
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let Some(soft) = line.and_then(|line| line.split_whitespace().next()) else { return };
    match soft.parse::<u64>() {
        Ok(soft) if soft < needed => {
            let seen = format!("{soft} octets may be locked (RLIMIT_MEMLOCK)");
            let expected = format!("{needed}: gateway.frames of {} octets", frames.1);
            let fix = "LimitMEMLOCK=infinity   # in the unit's [Service]; in a shell: ulimit -l unlimited";
            found.add("memlock", Severity::Error, "", seen, expected, fix);
        }
        _ => found.ok("memlock", "", format!("{soft} octets may be locked, {needed} are needed")),
    }
}

fn huge_pages(host: &Host, found: &mut Findings) {
    let Some(choice) = host.read("sys/kernel/mm/transparent_hugepage/enabled") else { return };
    let meminfo = host.read("proc/meminfo").unwrap_or_default();
    let free = meminfo.lines().find_map(|line| line.strip_prefix("HugePages_Free:")).unwrap_or("0").trim();
    let chosen = choice.split(['[', ']']).nth(1).unwrap_or("never").to_owned();
    let seen = format!("transparent huge pages: {chosen}; reserved and free: {free}");
    if chosen == "always" {
        return found.ok("hugepages", "", seen);
    }
    let expected = "always: packet memory and the SA table then take far fewer TLB entries. This version \
                    reserves none itself";
    let fix = "echo always > /sys/kernel/mm/transparent_hugepage/enabled";
    found.add("hugepages", Severity::Info, "", seen, expected, fix);
}

fn clock(host: &Host, found: &mut Findings) {
    match host.kernel().clock_synchronised() {
        Some(true) => found.ok("clock", "", "kept right by a time service"),
        Some(false) => found.add(
            "clock",
            Severity::Warning,
            "",
            "no time service keeps the clock right",
            "one: certificates are judged by it, and logs of two ends are compared by it",
            "timedatectl set-ntp true   # or: apt-get install chrony",
        ),
        None => {}
    }
}

/// Whether the daemon can shut itself in ([`crate::sandbox`]).
fn sandbox(host: &Host, config: Option<&Config>, found: &mut Findings) {
    const EXPECTED: &str = "both: whoever gets into the daemon by a packet gets no further";
    if config.is_some_and(|config| !config.gateway.sandbox) {
        let seen = "the configuration has the daemon run without its sandbox";
        return found.add("sandbox", Severity::Warning, "", seen, EXPECTED, "sandbox = true   # gateway");
    }
    let seccomp = host.read("proc/sys/kernel/seccomp/actions_avail").is_some();
    match (host.kernel().landlock(), seccomp) {
        (Some(version), true) => {
            found.ok("sandbox", "", format!("the kernel has Landlock (version {version}) and seccomp"));
        }
        (None, true) => {
            let fix = "GRUB_CMDLINE_LINUX=\"lsm=landlock,…\"   # before the modules that `cat /sys/kernel/security/lsm` names";
            found.add(
                "sandbox",
                Severity::Warning,
                "",
                "the kernel has seccomp, and no Landlock",
                EXPECTED,
                fix,
            );
        }
        (_, false) => {
            let fix = "apt-get install linux-image-amd64   # a distribution's kernel has it";
            found.add("sandbox", Severity::Warning, "", "the kernel has no seccomp filters", EXPECTED, fix);
        }
    }
}
