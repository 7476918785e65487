//! A frame that an AF_XDP socket transmits passes by the kernel's own packet taps on that interface. The proof that
//! no clear text leaves a gateway rests on captures at the other end of the veth pair: here they are shown to see
//! such frames, so that "none was seen" means something.
#![expect(unsafe_code, reason = "AF_XDP rings and their frames are shared with the kernel")]

use std::io::Write;
use std::num::NonZeroU32;
use std::time::Duration;

use portcullis_lab::{Class, Direction, Lab};
use xsk_rs::config::{LibxdpFlags, SocketConfig, UmemConfig};
use xsk_rs::{Socket, Umem};

/// Ethernet (from a to b, as the lab numbers them) and IPv4 with a protocol number for experiments (RFC 3692): clear
/// text. The header checksum is wrong, because a wire carries broken packets too.
const FRAME: &[u8; 60] = b"\x02\x00\x00\x00\x00\x04\x02\x00\x00\x00\x00\x02\x08\x00\
    \x45\x00\x00\x2e\x00\x00\x00\x00\x40\xfd\x00\x00\x0a\x00\x00\x01\x0a\x00\x00\x02\
    twenty-six octets in clear";

#[test]
fn a_capture_on_the_switch_sees_what_af_xdp_transmits() {
    let lab = Lab::new("afxdp").unwrap();
    let wire = lab.switch("wire").unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let port_a = lab.plug(&wire, &a, "eth0").unwrap();
    let port_b = lab.plug(&wire, &b, "eth0").unwrap();
    let captures = [&port_a, &port_b].map(|port| wire.capture(port, &[]).unwrap());

    let transmit = || {
        let (umem, mut frames) =
            Umem::new(UmemConfig::default(), NonZeroU32::new(8).unwrap(), false).unwrap();
        let config =
            SocketConfig::builder().libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD).build();
        // SAFETY: the queue has no other socket, the UMEM is shared with none.
        let (mut tx, _rx, _rings) =
            unsafe { Socket::new(config, &umem, &"eth0".parse().unwrap(), 0) }.unwrap();
        // SAFETY: the frame is of this UMEM, and the kernel does not have it yet.
        unsafe { umem.data_mut(&mut frames[0]).cursor().write_all(FRAME).unwrap() };
        // SAFETY: the frame is of this UMEM and is not touched again.
        unsafe { tx.produce_and_wakeup(&frames[..1]).unwrap() }
    };
    assert_eq!(a.enter(transmit).unwrap(), 1);
    for (capture, direction) in captures.iter().zip([Direction::In, Direction::Out]) {
        let what = "the frame of the AF_XDP socket";
        let frame = capture.wait_frame(what, Duration::from_secs(5), |frame| frame.bytes == FRAME).unwrap();
        assert_eq!((frame.class, frame.direction), (Class::Clear, direction));
    }
}
