//! Keeps a flood of IKE_SA_INIT (or IKE_SESSION_RESUME) requests apart from everything else that comes to a port, in the kernel: sockets share
//! the port (`SO_REUSEPORT`), and a classic BPF program gives such requests to the second. Whoever floods it fills the
//! buffer of that one alone, so that what belongs to established IKE SAs still arrives. On the NAT port, what is not IKE goes
//! to a third.
#![expect(unsafe_code, reason = "SO_ATTACH_REUSEPORT_CBPF has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Which socket of the port gets what, in the order in which they were bound.
pub(super) const EVERYTHING_ELSE: u32 = 0;
pub(super) const INIT_REQUESTS: u32 = 1;
/// What does not begin with the non-ESP marker (RFC 3948 §2.2).
pub(super) const ESP: u32 = 2;

const EXCHANGE_TYPE: u32 = 18;
const FLAGS: u32 = 19;
const IKE_SA_INIT: u32 = 34;
/// It begins an IKE SA as well (RFC 5723).
const IKE_SESSION_RESUME: u32 = 38;
const RESPONSE: u32 = 0x20;

const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const LOAD_OCTET: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Tells what comes to the port apart. To be called on one socket of the port, once all are bound. `marker` is the length
/// of what precedes an IKE message on that port, zeroes; where there is such, there is a socket for [`ESP`]. A datagram that is
/// too short is everything else, keepalives among it.
pub(super) fn attach(socket: &impl AsFd, marker: u32) -> io::Result<()> {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The program sees the UDP payload.
    let marked = [step(LOAD_WORD, 0, 0, 0), step(IF_EQUAL, 1, 0, 0), step(RETURN, 0, 0, ESP)];
    let ike = [
        step(LOAD_OCTET, 0, 0, marker + EXCHANGE_TYPE),
        step(IF_EQUAL, 1, 0, IKE_SA_INIT),
        step(IF_EQUAL, 0, 3, IKE_SESSION_RESUME),
        step(LOAD_OCTET, 0, 0, marker + FLAGS),
        step(IF_SET, 1, 0, RESPONSE),
        step(RETURN, 0, 0, INIT_REQUESTS),
        step(RETURN, 0, 0, EVERYTHING_ELSE),
    ];
    let mut program = if marker == 0 { ike.to_vec() } else { [&marked[..], &ike].concat() };
    let whole = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `whole` and the program that it points to live through the call, which copies them; `len` counts its
    // instructions, and the option's length is that of the structure.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const whole).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
