//! The committed object.

use std::path::Path;
use std::process::Command;

/// Built anew only where the toolchain is that it was built with; its source is compared everywhere.
#[test]
fn the_committed_object_is_what_its_source_builds() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ebpf/build.sh");
    let output = Command::new(&script).arg("--check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(3) {
        eprintln!("not checked: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
}
