//! The XDP program of the sink: every packet goes to the queue's AF_XDP socket. Six instructions, written here, because a
//! compiled program would need its own build; the gateway's own program would weigh on the sink's core with its tries.

#![expect(unsafe_code, reason = "bpf(2) takes pointers to its arguments")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The first fields of `union bpf_attr` for each command; the kernel takes the rest as zero.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The attached program; detaches when dropped.
#[derive(Debug)]
pub(crate) struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
    native: bool,
}

impl Redirect {
    /// Attaches to an interface, by its driver if that can, else generically.
    pub(crate) fn attach(ifindex: u32) -> io::Result<Self> {
        let map = MapCreate {
            map_type: BPF_MAP_TYPE_XSKMAP,
            key_size: 4,
            value_size: 4,
            max_entries: 64,
            map_flags: 0,
        };
        let map = bpf(BPF_MAP_CREATE, &map)?;
        let instructions = instructions(map.as_raw_fd() as u32);
        let load = ProgLoad {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr().addr() as u64,
            license: c"GPL".as_ptr().addr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
        };
        let program = bpf(BPF_PROG_LOAD, &load)?;
        let link = |flags| {
            let prog_fd = program.as_raw_fd() as u32;
            bpf(
                BPF_LINK_CREATE,
                &LinkCreate { prog_fd, target_ifindex: ifindex, attach_type: BPF_XDP, flags },
            )
        };
        let (link, native) = match link(XDP_FLAGS_DRV_MODE) {
            Ok(link) => (link, true),
            Err(_) => (link(XDP_FLAGS_SKB_MODE)?, false),
        };
        Ok(Self { map, _program: program, _link: link, native })
    }

    /// Whether the driver runs it.
    pub(crate) fn is_native(&self) -> bool {
        self.native
    }

    /// Hands the queue's packets to the socket.
    pub(crate) fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let value = socket.as_raw_fd() as u32;
        let update = MapUpdate {
            map_fd: self.map.as_raw_fd() as u32,
            padding: 0,
            key: (&raw const queue).addr() as u64,
            value: (&raw const value).addr() as u64,
            flags: 0,
        };
        command(BPF_MAP_UPDATE_ELEM, &update).map(drop)
    }
}

/// `return bpf_redirect_map(map, ctx->rx_queue_index, XDP_PASS)`.
fn instructions(map: u32) -> [u64; 6] {
    // Of `struct bpf_insn`: opcode, registers, offset and immediate value, as the little-endian word that they make.
    let instruction = |code: u8, dst: u8, src: u8, offset: i16, value: u32| {
        u64::from(code)
            | u64::from(src << 4 | dst) << 8
            | u64::from(offset.cast_unsigned()) << 16
            | u64::from(value) << 32
    };
    const LOAD_WORD: u8 = 0x61;
    const LOAD_DOUBLE: u8 = 0x18;
    const MOVE: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const MAP_FD: u8 = 1;
    const RX_QUEUE_INDEX: i16 = 16;
    const XDP_PASS: u32 = 2;
    const REDIRECT_MAP: u32 = 51;
    [
        instruction(LOAD_WORD, 2, 1, RX_QUEUE_INDEX, 0),
        instruction(LOAD_DOUBLE, 1, MAP_FD, 0, map),
        0,
        instruction(MOVE, 3, 0, 0, XDP_PASS),
        instruction(CALL, 0, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// A command that makes a descriptor.
fn bpf<T>(number: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    let fd = command(number, attr)?;
    // SAFETY: these commands return a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn command<T>(number: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is the beginning of `union bpf_attr`, of the size given; what it points to outlives the call, and
    // none of the commands used here writes to it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, number, std::ptr::from_ref(attr), size_of::<T>()) };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
