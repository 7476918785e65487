//! Links Intel's ipsec-mb where it is installed (Debian: libipsec-mb-dev). Where it is not, the bench says so.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(ipsec_mb)");
    let library = Path::new("/usr/lib/x86_64-linux-gnu/libIPSec_MB.so");
    println!("cargo::rerun-if-changed={}", library.display());
    if library.exists() {
        println!("cargo::rustc-cfg=ipsec_mb");
        println!("cargo::rustc-link-lib=IPSec_MB");
    }
}
