//! A Linux kernel of its own, in a virtual machine: the one implementation of ESP that most peers have and that the
//! machine under the tests may lack. It hangs on a switch by a TAP device, and has what a peer of fixed keys needs: `ip`,
//! busybox, perl and the kernel's modules. Commands go to a shell on its serial line.
//!
//! It can also have a test program of ours, and what labs call, for what takes a kernel that the machine has not got: then
//! the lab is in the guest.

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
/// What a lab in the guest calls besides.
const LAB_PROGRAMS: [&str; 2] = ["ethtool", "ping"];
/// Of the modules, the one that was taken along last: kernels without it were unpacked by an earlier `./dev setup test`.
const LAST_MODULE: &str = "kernel/net/sched/sch_ingress.ko";
/// Where a test program lies in the guest.
const TEST_PROGRAM: &str = "/bin/portcullis-test";
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
        let mut versions =
            fs::read_dir(Path::new(KERNEL_DIR).join("modules")).into_iter().flatten().flatten();
        if !kernel.exists() || !versions.any(|version| version.path().join(LAST_MODULE).exists()) {
            return Some(format!(
                "there is no kernel with all of its modules at {KERNEL_DIR} (./dev setup test unpacks one)"
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
        Self::boot_with(switch, "256", |_| Ok(()))
    }

    /// Boots one that can run this program itself, a test, with a lab of its own in the guest: see [`Linux::run_test`].
    ///
    /// # Errors
    /// As [`Linux::boot`].
    pub fn boot_with_tests(switch: &Switch) -> Result<Self> {
        Self::boot_with(switch, "768", |tree| {
            LAB_PROGRAMS.into_iter().try_for_each(|program| copy_program(program, tree))?;
            let program = std::env::current_exe().map_err(LabError::io("find the running test"))?;
            copy_libraries(&program, tree)?;
            // What a debugger would need is most of it.
            let stripped = tree.join(TEST_PROGRAM.trim_start_matches('/'));
            let words = [Path::new("objcopy"), Path::new("--strip-all"), &program, &stripped];
            run_here(&command_of(words), "this machine").map(drop)
        })
    }

    /// Runs a test of this program in a guest that was made for it, and returns what it has written.
    ///
    /// # Errors
    /// [`LabError::Answer`] with its output when it fails.
    pub fn run_test(&mut self, name: &str) -> Result<String> {
        self.run(&format!("{TEST_PROGRAM} --exact {name} --nocapture"))
    }

    fn boot_with(
        switch: &Switch,
        megabytes: &str,
        furnish: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let host = switch.host();
        let (tree, initrd) = (host.dir().join("guest"), host.dir().join("initrd"));
        make_tree(&tree)?;
        furnish(&tree)?;
        make_initrd(&tree, &initrd)?;
        host.ip("tuntap add guest0 mode tap")?;
        host.ip("link set guest0 master br0 up")?;
        let kernel = Path::new(KERNEL_DIR).join("vmlinuz");
        let mut command = Command::new(QEMU);
        // Emulated throughout: nested KVM is where machines differ.
        command.args(["-accel", "tcg", "-cpu", "max", "-m", megabytes, "-nodefaults", "-no-reboot"]);
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

/// The guest's file system, but for the kernel's modules.
fn make_tree(tree: &Path) -> Result<()> {
    let io = |path: &Path| LabError::io(format!("make the guest's {}", path.display()));
    for directory in ["bin", "lib", "proc", "sys", "dev"] {
        fs::create_dir_all(tree.join(directory)).map_err(io(tree))?;
    }
    // The loader is asked for there.
    symlink("lib", tree.join("lib64")).map_err(io(tree))?;
    copy(Path::new(BUSYBOX), &tree.join("bin/busybox"))?;
    PROGRAMS.into_iter().try_for_each(|program| copy_program(program, tree))?;
    let init = tree.join("init");
    fs::write(&init, INIT).map_err(io(&init))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).map_err(io(&init))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(LabError::io(format!("give the guest {}", from.display())))
}

/// A program and what it is linked with.
fn copy_program(name: &str, tree: &Path) -> Result<()> {
    let path = find(name).unwrap_or_else(|| PathBuf::from(name));
    copy(&path, &tree.join("bin").join(name))?;
    copy_libraries(&path, tree)
}

fn copy_libraries(program: &Path, tree: &Path) -> Result<()> {
    let libraries = run_here(&command_of([Path::new("ldd"), program]), "this machine")?;
    let mut libraries = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    libraries.try_for_each(|library| {
        copy(library, &tree.join("lib").join(library.file_name().unwrap_or_default()))
    })
}

/// The tree and the modules, as the archive that the kernel unpacks.
fn make_initrd(tree: &Path, initrd: &Path) -> Result<()> {
    let mut archive = format!("cp -r {KERNEL_DIR}/modules {}/lib/modules", tree.display());
    let _infallible = write!(
        archive,
        " && cd {} && find . | cpio --quiet -o -H newc >{}",
        tree.display(),
        initrd.display()
    );
    run_here(&command_of(["sh", "-c", &archive]), "this machine").map(drop)
}
