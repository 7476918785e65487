//! A Linux kernel of its own, in a virtual machine: the one implementation of ESP that most peers have and that the
//! machine under the tests may lack. It hangs on a switch by a TAP device, and has what a peer of fixed keys needs: `ip`,
//! busybox, perl and the kernel's modules. Commands go to a shell on its serial line.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{LabError, Result};
use crate::host::run_here;
use crate::lab::Switch;
use crate::process::{Process, Stream, command_of};

/// Where `./dev setup test` unpacks the kernel: `vmlinuz`, and `modules` by version.
const KERNEL_DIR: &str = "/usr/local/lib/portcullis-lab";
const QEMU: &str = "qemu-system-x86_64";
const BUSYBOX: &str = "/bin/busybox";
/// What is not in busybox. Linked with libraries, which are taken along.
const PROGRAMS: [&str; 2] = ["ip", "perl"];
/// Of a processor that is emulated by two cores that others use as well.
const BOOT_TIME: Duration = Duration::from_secs(120);
const COMMAND_TIME: Duration = Duration::from_secs(60);
/// Begins what the guest's shell says by itself.
const SHELL: &str = "portcullis-guest";
const INIT: &str = include_str!("linux.init");

/// A running guest. Dropping it switches it off.
#[derive(Debug)]
pub struct Linux {
    process: Process,
    commands: u32,
}

impl Linux {
    /// What this machine lacks to run one, in words for an operator; `None` if nothing.
    pub fn missing() -> Option<String> {
        let kernel = Path::new(KERNEL_DIR).join("vmlinuz");
        if !kernel.exists() {
            return Some(format!(
                "there is no kernel at {} (./dev setup test unpacks one)",
                kernel.display()
            ));
        }
        let programs = [QEMU, BUSYBOX, "cpio"].iter().chain(&PROGRAMS);
        let lacking = programs.copied().find(|program| find(program).is_none())?;
        Some(format!("there is no {lacking} (./dev setup test installs it)"))
    }

    /// Boots one whose interface `eth0` is on the switch.
    ///
    /// # Errors
    /// [`LabError`] when something of [`Linux::missing`] is, or the guest does not come up.
    pub fn boot(switch: &Switch) -> Result<Self> {
        let host = switch.host();
        let initrd = host.dir().join("initrd");
        make_initrd(&host.dir().join("guest"), &initrd)?;
        host.ip("tuntap add guest0 mode tap")?;
        host.ip("link set guest0 master br0 up")?;
        let kernel = Path::new(KERNEL_DIR).join("vmlinuz");
        let mut command = Command::new(QEMU);
        // Emulated throughout: nested KVM is where machines differ.
        command.args(["-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults", "-no-reboot"]);
        command.args(["-display", "none", "-serial", "stdio"]);
        // Without its header of offloads, what the guest sends is complete.
        command.args(["-netdev", "tap,id=wire,ifname=guest0,script=no,downscript=no,vnet_hdr=off"]);
        command.args(["-device", "virtio-net-pci,netdev=wire,mac=02:00:00:01:00:01,romfile="]);
        command.args(["-append", "console=ttyS0 quiet panic=-1", "-kernel"]).arg(kernel);
        command.arg("-initrd").arg(&initrd);
        let process = host.spawn(command)?;
        process.wait_line(&format!("{SHELL}: up"), BOOT_TIME)?;
        Ok(Self { process, commands: 0 })
    }

    /// Runs a line of shell in the guest and returns what it has written, errors included.
    ///
    /// # Errors
    /// [`LabError::Answer`] with its output when it does not exit 0.
    pub fn run(&mut self, line: &str) -> Result<String> {
        self.commands += 1;
        let (mark, end) = (self.process.mark(), format!("{SHELL}: {} ended ", self.commands));
        self.process.write_line(line)?;
        let (status, _) = self.process.wait_line_from(mark, &end, COMMAND_TIME)?;
        let output = self.process.output_from(mark, Stream::Stdout);
        let output = output.split_once(&end).map_or("", |(output, _)| output);
        if status.ends_with(" ended 0") {
            return Ok(output.to_owned());
        }
        let answer = format!("{line}\n{output}");
        Err(LabError::Answer { tool: "the guest's shell", reason: status, answer })
    }
}

/// The path of a program that may be named without one.
fn find(program: &str) -> Option<PathBuf> {
    let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    // Joined with an absolute path, a place is that path.
    places.iter().map(|place| Path::new(place).join(program)).find(|path| path.exists())
}

/// The guest's file system, as the archive that its kernel unpacks.
fn make_initrd(tree: &Path, initrd: &Path) -> Result<()> {
    let io = |path: &Path| LabError::io(format!("make the guest's {}", path.display()));
    for directory in ["bin", "lib", "proc", "sys", "dev"] {
        fs::create_dir_all(tree.join(directory)).map_err(io(tree))?;
    }
    // The loader is asked for there.
    symlink("lib", tree.join("lib64")).map_err(io(tree))?;
    let copy = |from: &Path, to: PathBuf| fs::copy(from, &to).map(drop).map_err(io(from));
    copy(Path::new(BUSYBOX), tree.join("bin/busybox"))?;
    for program in PROGRAMS {
        let path = find(program).unwrap_or_else(|| PathBuf::from(program));
        copy(&path, tree.join("bin").join(program))?;
        let words = [Path::new("ldd"), &path];
        let libraries = run_here(&command_of(words), "this machine")?;
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
            copy(library, tree.join("lib").join(library.file_name().unwrap_or_default()))?;
        }
    }
    let init = tree.join("init");
    fs::write(&init, INIT).map_err(io(&init))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).map_err(io(&init))?;
    let mut archive = format!("cp -r {KERNEL_DIR}/modules {}/lib/modules", tree.display());
    let _infallible = write!(
        archive,
        " && cd {} && find . | cpio --quiet -o -H newc >{}",
        tree.display(),
        initrd.display()
    );
    run_here(&command_of(["sh", "-c", &archive]), "this machine").map(drop)
}
