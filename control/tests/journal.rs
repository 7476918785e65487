//! Logs as entries of systemd's journal, read by something that takes the journal's place.

#![expect(clippy::expect_used, reason = "where a test cannot go on it fails")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const CONFIG: &str = "workers = [0]\nmetrics = \"127.0.0.1:9464\"\n\
     [[gateway.interfaces]]\nname = \"wan0\"\nrole = \"outside\"\n[[gateway.interfaces]]\nname = \"lan0\"\nrole = \"inside\"\n";

/// A machine of its own, as far as the daemon touches it.
const MACHINE: &str = "mount -t tmpfs tmpfs /run && mount -t bpf bpf /sys/fs/bpf && ip link set lo up && \
     ip link add wan0 type veth peer name lan0 && ip link set wan0 up && ip link set lan0 up && exec python3 \"$@\"";

/// What a daemon writes until it is ready.
fn entries() -> Vec<Value> {
    let dir = std::env::temp_dir().join(format!("portcullis-journal-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let config = dir.join("portcullis.toml");
    let places =
        format!("[gateway]\nadmin_socket = \"{0}/admin.sock\"\nstate_dir = \"{0}\"\n", dir.display());
    std::fs::write(&config, format!("{places}{CONFIG}")).expect("a configuration");
    let peer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/journal.py");
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private", "sh", "-c", MACHINE, "sh"])
        .arg(peer)
        .args(["portcullis is ready", env!("CARGO_BIN_EXE_portcullis")])
        .args(["run", "--log-format", "journal", "--config"])
        .arg(&config)
        .output()
        .expect("unshare");
    std::fs::remove_dir_all(&dir).expect("the directory goes");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("a line for each entry")).collect()
}

#[test]
fn an_event_is_an_entry_with_a_field_for_each_of_its_own() {
    let entries = entries();
    let served = entries.iter().find(|entry| entry["PORTCULLIS_INTERFACE"] == "wan0");
    let served = served.unwrap_or_else(|| unreachable!("{entries:?}"));
    assert_eq!(served["MESSAGE"], "interface is served");
    assert_eq!(served["SYSLOG_IDENTIFIER"], "portcullis");
    // Notice.
    assert_eq!(served["PRIORITY"], "5");
    assert_eq!(served["PORTCULLIS_QUEUES"], "1");
    assert_eq!(served["TARGET"], "portcullis_gateway::dataplane::interfaces");
}
