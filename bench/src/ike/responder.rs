//! Who answers: our daemon, or strongSwan, each whole, on one core.
//!
//! Both take any client of the domain, with one connection, one child whose remote side is narrowed to what the client asks
//! for, and no cookies, limits of half-open SAs, DPD, keepalives or rekeying of their own: what is measured is begun by the
//! clients. strongSwan is tuned as its documentation says for many SAs: a hash table of IKE SAs as large as there will be of
//! them, its segments locked apart, more threads than the default, OpenSSL before its own algorithms, hardly any log. Ours
//! logs as it does by default.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use portcullis_lab::{Gateway, GatewayConfig, Host, StrongSwan};

use super::client::{ANY_CLIENT, CHILD, CONNECTION, ESP_PROPOSAL, PROPOSAL, RESPONDER, SECRET};
use super::credentials::Credentials;
use super::place::{GATEWAY, LOCAL, REMOTE};
use crate::forward::cpu;

/// The responder's core, and the clients'.
pub(crate) const RESPONDER_CORE: usize = 0;
pub(crate) const CLIENTS_CORE: usize = 1;

/// SA pairs that ours has room for: those of the most tunnels, and those that replace them.
const MAX_SAS: u32 = 262_144;

const CHARON: &str = "load = random nonce openssl aesni aes sha1 sha2 pem pkcs1 pkcs8 x509 constraints pubkey hmac kdf gcm \
                      curve25519 kernel-libipsec kernel-netlink socket-default vici\n\
                      threads = 32\n ikesa_table_size = 131072\n ikesa_table_segments = 32\n\
                      dos_protection = no\n cookie_threshold = 0\n block_threshold = 0\n init_limit_half_open = 0\n\
                      init_limit_job_load = 0\n half_open_timeout = 60\n keep_alive = 0\n\
                      filelog { stderr { default = 0\n dmn = 1\n job = 1\n ike = 0\n flush_line = no } }";

/// Which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Portcullis,
    StrongSwan,
}

impl Kind {
    /// As the report has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portcullis => "portcullis",
            Self::StrongSwan => "strongswan",
        }
    }
}

/// One that runs.
#[derive(Debug)]
pub(crate) enum Responder {
    Portcullis(Box<Gateway>),
    StrongSwan(Box<StrongSwan>),
}

impl Responder {
    /// Starts it and keeps it to its core.
    pub(crate) fn start(
        kind: Kind,
        host: &Host,
        credentials: &Credentials,
        binary: &std::path::Path,
    ) -> anyhow::Result<Self> {
        credentials.enroll(host.dir())?;
        // From its first moment: how many processors there are decides how it works.
        let _ = core_affinity::set_for_current(core_affinity::CoreId { id: RESPONDER_CORE });
        let responder = Self::launch(kind, host, credentials, binary);
        let _ = core_affinity::set_for_current(core_affinity::CoreId { id: CLIENTS_CORE });
        let mut responder = responder?;
        let (mask, pid) = (format!("{:x}", 1 << RESPONDER_CORE), responder.pid().to_string());
        host.run(["taskset", "-a", "-p", &mask, &pid])?;
        cpu::prefer(responder.pid());
        Ok(responder)
    }

    fn launch(
        kind: Kind,
        host: &Host,
        credentials: &Credentials,
        binary: &std::path::Path,
    ) -> anyhow::Result<Self> {
        if kind == Kind::StrongSwan {
            let charon = StrongSwan::start_with(host, &swanctl(credentials), CHARON)?;
            return Ok(Self::StrongSwan(Box::new(charon)));
        }
        let config = GatewayConfig {
            max_sas: MAX_SAS,
            workers: vec![RESPONDER_CORE as u32],
            gateway_lines: "metrics = \"off\"".to_owned(),
            ..GatewayConfig::new(toml(credentials))
        };
        Ok(Self::Portcullis(Box::new(Gateway::start(host, binary, &config)?)))
    }

    pub(crate) fn pid(&mut self) -> u32 {
        match self {
            Self::Portcullis(gateway) => gateway.process().pid(),
            Self::StrongSwan(charon) => charon.process().pid(),
        }
    }

    /// Octets of it that lie in memory.
    pub(crate) fn resident(&mut self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Time on a processor that it has taken.
    pub(crate) fn processor(&mut self) -> Duration {
        cpu::time_of(self.pid())
    }
}

/// Our daemon, which was built beside this bench.
pub(crate) fn built() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("portcullis");
    let built = Command::new(&path).arg("--version").output().is_ok_and(|output| output.status.success());
    anyhow::ensure!(
        built,
        "{} does not run: `./dev bench ike` builds it, --gateway names another",
        path.display()
    );
    Ok(path)
}

fn toml(credentials: &Credentials) -> String {
    let (ours, theirs) = (
        credentials.pick("auth = \"psk\"", "auth = \"pubkey\", certs = \"own.pem\""),
        credentials.pick("auth = \"psk\"", "auth = \"pubkey\", cacerts = \"root.pem\""),
    );
    let secret = format!("[secrets.ike]\nsecret = \"{SECRET}\"\n");
    format!(
        "[ike]\ncookie_threshold = 1000000\nhalf_open_limit = 1000000\nblock_threshold = 1000000\nkeep_alive = \"0s\"\n\n\
         [connections.{CONNECTION}]\nlocal_addrs = [\"{GATEWAY}\"]\nproposals = [\"{PROPOSAL}\"]\n\
         mobike = false\ndpd_delay = \"0s\"\nrekey_time = \"0s\"\n\
         local = {{ {ours}, id = \"{RESPONDER}\" }}\nremote = {{ {theirs}, id = \"{ANY_CLIENT}\" }}\n\n\
         [connections.{CONNECTION}.children.{CHILD}]\nlocal_ts = [\"{LOCAL}\"]\nremote_ts = [\"{REMOTE}\"]\n\
         esp_proposals = [\"{ESP_PROPOSAL}\"]\nrekey_time = \"0s\"\n\n{}",
        credentials.pick(&secret, "")
    )
}

fn swanctl(credentials: &Credentials) -> String {
    let (ours, theirs) = (
        credentials.pick("auth = psk", "auth = pubkey\n certs = own.pem"),
        credentials.pick("auth = psk", "auth = pubkey\n cacerts = root.pem"),
    );
    let secrets = format!("secrets {{\n ike {{\n secret = \"{SECRET}\"\n }}\n }}\n");
    format!(
        "connections {{\n {CONNECTION} {{\n local_addrs = {GATEWAY}\n proposals = {PROPOSAL}\n mobike = no\n\
         dpd_delay = 0s\n rekey_time = 0s\n local {{\n {ours}\n id = {RESPONDER}\n }}\n\
         remote {{\n {theirs}\n id = {ANY_CLIENT}\n }}\n\
         children {{\n {CHILD} {{\n local_ts = {LOCAL}\n remote_ts = {REMOTE}\n esp_proposals = {ESP_PROPOSAL}\n\
         rekey_time = 0s\n }}\n }}\n }}\n }}\n{}",
        credentials.pick(&secrets, "")
    )
}
