//! Frames that come over the wire, and the AF_XDP sockets that they are for.
#![expect(unsafe_code, reason = "rings trust their users about who owns which frame")]

use std::os::fd::{AsRawFd, BorrowedFd};

use portcullis_gateway::xdp::{Outcome, XdpManager};
use xsk_rs::config::{LibxdpFlags, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::frames::{ESP, TCP, UDP, esp, families, frame, packet, tagged, udp};
use crate::host::{Wire, count, on_a_host, protection};

/// A socket bound to queue 0 of an interface, all of its frames waiting to be filled.
struct Receiver {
    rx: RxQueue,
    tx: TxQueue,
    umem: Umem,
    frames: Vec<FrameDesc>,
    _fill_and_completion: (FillQueue, CompQueue),
}

impl Receiver {
    fn bind(interface: &str) -> Self {
        let (umem, frames) = Umem::new(UmemConfig::default(), 64.try_into().unwrap(), false).unwrap();
        let config =
            SocketConfig::builder().libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD).build();
        // SAFETY: the UMEM has no other socket.
        let bound = unsafe { Socket::new(config, &umem, &interface.parse().unwrap(), 0) };
        let (tx, rx, rings) = bound.unwrap();
        let (mut fill, completion) = rings.unwrap();
        // SAFETY: the frames are of this UMEM and given to nobody else.
        assert_eq!(unsafe { fill.produce(&frames) }, frames.len());
        Self { rx, tx, umem, frames, _fill_and_completion: (fill, completion) }
    }

    fn serve(&self, manager: &mut XdpManager, ifindex: u32) {
        // SAFETY: the socket outlives the borrow, which ends with this call.
        let socket = unsafe { BorrowedFd::borrow_raw(self.tx.fd().as_raw_fd()) };
        manager.set_xsk(ifindex, 0, socket).unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut received = self.frames[0];
        // SAFETY: what is received is read before it is given back, which it never is.
        unsafe {
            assert_eq!(self.rx.poll_and_consume_one(&mut received, 10_000).unwrap(), 1, "nothing has come");
            self.umem.data(&received).contents().to_vec()
        }
    }
}

#[test]
fn frames_for_a_worker_arrive_whole_at_the_socket_of_their_interface() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let (mut outside, mut inside) = (Receiver::bind("out0"), Receiver::bind("in0"));
        outside.serve(&mut manager, host.outside);
        inside.serve(&mut manager, host.inside);
        let (out, lan) = (Wire::open("out1"), Wire::open("in1"));
        for family in families() {
            for tags in 0..=2 {
                let raw = tagged(tags, &packet(family.peer, family.tunnel, ESP, &esp()));
                let in_udp = tagged(tags, &packet(family.peer, family.tunnel, UDP, &udp(4500, 4500, &esp())));
                let clear = tagged(tags, &packet(family.local, family.remote, TCP, &[0; 46]));
                out.send(&raw);
                lan.send(&clear);
                out.send(&in_udp);
                assert_eq!(outside.receive(), raw);
                assert_eq!(outside.receive(), in_udp);
                assert_eq!(inside.receive(), clear);
            }
        }
        assert_eq!(count(&manager, Outcome::NoSocket), 0);
    });
}

#[test]
fn frames_for_a_worker_that_is_gone_never_reach_the_kernel() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let inside = Receiver::bind("in0");
        inside.serve(&mut manager, host.inside);
        drop(inside);
        let (far, near) = (Wire::open("in1"), Wire::open("in0"));
        let [v4, _] = families();
        let clear = frame(&packet(v4.local, v4.remote, TCP, &[0; 46]));
        let innocent = frame(&packet(v4.local, v4.stranger, TCP, &[0; 46]));
        far.send(&clear);
        far.send(&innocent);
        assert!(!near.receive_until(&innocent).contains(&clear));
    });
}
