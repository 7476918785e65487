//! The XDP program and the egress guard: what steers packets to the workers, and what keeps clear text that
//! policy protects from getting past them, also while there are none.
//!
//! Start at [`ingress`] and [`egress`], which hold the rules; [`packet`] parses for both, [`address`] asks the
//! tries, [`maps`] declares what user space fills in. Layouts and counted outcomes are in
//! `portcullis-ebpf-common`, the loader in the gateway's `xdp` module. Built by `ebpf/build.sh`.
//!
//! # Terms
//!
//! - *local trie*: the prefixes of the `local_ts` of all policies but those that bypass; *remote trie*: those of
//!   their `remote_ts`; *pass tries*: the same two of the policies that bypass. Addresses only: protocols and ports
//!   are the workers' matter.
//! - *own address*: an address of the host; *tunnel address*: an own address that ESP and IKE come to; *outside
//!   address*: an own address on an outside interface.
//! - *link scope*: to fe80::/10, ff00::/8, 169.254.0.0/16, 224.0.0.0/4 or 255.255.255.255, or from fe80::/10 (an
//!   IPv4 router may forward 169.254.0.0/16, so as a source it proves nothing), or Neighbour Discovery with hop
//!   limit 255 (RFC 4861 §6.1: no router has touched it).
//! - While [`Config::whole`](portcullis_ebpf_common::Config::whole) is 0, an address that a trie does not hold
//!   counts as matched by a prefix of length 0.
//!
//! # In, on every interface that has a role; the first rule that matches decides
//!
//! 1. Not IP: pass. An impossible IPv4 or IPv6 header, or more than two VLAN tags: drop (`malformed`).
//! 2. ESP to a tunnel address, fragments of it too: to the queue's socket.
//! 3. UDP to the NAT-T port of a tunnel address, in one piece: an impossible length: drop (`malformed`); payload
//!    of fewer than four octets: drop (`keepalive`); first four octets zero: IKE, pass; else ESP, to the queue's
//!    socket.
//! 4. UDP to the IKE port, or with the zero marker to the NAT-T port, of an own address: pass. To a tunnel
//!    address also fragments of UDP to either port, and all but the first fragment of any UDP, which without the
//!    first are nothing: the kernel reassembles, the daemon receives.
//! 5. Link scope: pass.
//! 6. *Inside*, to an own address: pass. From the local to the remote trie: to the queue's socket, or, where
//!    [`Config::firewall`](portcullis_ebpf_common::Config::firewall) is not 0, pass (`firewalled`): the kernel's routes lead it
//!    into the TUN device. Else pass.
//! 7. *Outside*, to an own address: pass, unless its source is in the remote trie and the address in the local
//!    trie, where a source matched by a prefix of length 0 counts only if the address is neither a tunnel nor an
//!    outside address (to protect everything must not cut off the host's management): drop (`clear_inbound`).
//! 8. *Outside*, to another address: drop (`clear_inbound`) if source or destination is in the remote trie, else
//!    pass. (So where everything is protected, a DHCP client on an outside interface must ask for its answers by
//!    broadcast.)
//! 9. What rules 7 and 8 would drop, if its source is in the remote pass trie and its destination in the local one:
//!    to the queue's socket (`bypassed`). A worker lets it on only if a policy bypasses that very packet.
//!
//! "To the queue's socket" is a drop (`no_socket`) where there is none.
//!
//! # Out, on outside interfaces
//!
//! 1. Not IP: pass. An impossible header: drop (`out_malformed`). Lengths are not judged: the packet may be a
//!    GSO giant.
//! 2. ESP from a tunnel address; UDP from the IKE or NAT-T port of an own address, unless ports cannot be seen:
//!    pass.
//! 3. Link scope: pass.
//! 4. From the local to the remote trie: drop (`clear_outbound`), unless the source is a tunnel or outside
//!    address and the destination is matched by a prefix of length 0 only.
//! 5. Else pass.
//!
//! What AF_XDP sockets send does not come here: in copy mode it enters the driver behind this hook, in zero-copy
//! mode it never meets the kernel's stack.

#![no_std]
#![no_main]

mod address;
mod egress;
mod ingress;
mod maps;
mod packet;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use portcullis_ebpf_common::{Disposition, Outcome};

/// The XDP program.
#[xdp]
pub fn portcullis_in(ctx: XdpContext) -> u32 {
    verdict(ingress::decide(&ctx, &ctx))
}

/// The XDP program for interfaces whose packets may come as chains of buffers (Linux 5.18).
#[xdp(frags)]
pub fn portcullis_in_chains(ctx: XdpContext) -> u32 {
    verdict(ingress::decide(&ctx, &packet::Chain(&ctx)))
}

#[inline(always)]
fn verdict(outcome: Outcome) -> u32 {
    maps::count(outcome);
    match outcome.disposition() {
        Disposition::Pass => xdp_action::XDP_PASS,
        Disposition::Redirect => xdp_action::XDP_REDIRECT,
        Disposition::Drop => xdp_action::XDP_DROP,
    }
}

/// The egress guard. What it does not drop goes on to other programs of the hook.
#[classifier]
pub fn portcullis_out(ctx: TcContext) -> i32 {
    let outcome = egress::decide(&ctx);
    maps::count(outcome);
    match outcome.disposition() {
        Disposition::Pass | Disposition::Redirect => TC_ACT_UNSPEC,
        Disposition::Drop => TC_ACT_SHOT,
    }
}

// No GPL-only helper is used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 18] = *b"MIT OR Apache-2.0\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
