//! A packet socket (`packet(7)`) on one interface, read in batches. The only module with `unsafe`: `bind` with a
//! link-level address, `recvmmsg` and `PACKET_STATISTICS` have no safe wrapper that fits.
#![expect(unsafe_code, reason = "system calls on packet sockets that no crate wraps")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Packets read by one system call.
const BATCH: usize = 64;
/// Bytes the kernel may queue for us; a burst of a tunnel at full speed lasts until the reader is scheduled.
const RECEIVE_BUFFER: libc::c_int = 64 << 20;

/// A packet socket bound to one interface, for frames of all protocols in both directions.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
    buffers: Vec<u8>,
    snap: usize,
    lost: u64,
}

/// One frame as the kernel handed it over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// The frame from its Ethernet header on, cut at the snap length.
    pub(crate) bytes: &'a [u8],
    /// The frame's true length in bytes.
    pub(crate) length: usize,
    /// Whether this host sent it.
    pub(crate) outgoing: bool,
}

impl PacketSocket {
    /// Opens the socket in the namespace of the calling thread. `snap` is how much of a frame is kept.
    pub(crate) fn open(interface: &str, snap: usize) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        // SAFETY: no pointers. Protocol 0 receives nothing until bind names the interface.
        let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        nix::sys::socket::setsockopt(
            &fd,
            nix::sys::socket::sockopt::RcvBufForce,
            &usize::try_from(RECEIVE_BUFFER).unwrap_or(usize::MAX),
        )?;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET.unsigned_abs() as libc::sa_family_t,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` lives through the call and `length` is its size.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, buffers: vec![0; BATCH * snap], snap, lost: 0 })
    }

    /// Reads what is queued, without waiting, and hands over each frame; returns how many there were.
    pub(crate) fn read_batch(&mut self, mut each: impl FnMut(Seen<'_>)) -> io::Result<usize> {
        // SAFETY: all three are plain C structures for which zeroes are valid.
        let (mut vectors, mut from, mut messages): (
            [libc::iovec; BATCH],
            [libc::sockaddr_ll; BATCH],
            [libc::mmsghdr; BATCH],
        ) = unsafe { std::mem::zeroed() };
        let chunks = self.buffers.chunks_exact_mut(self.snap);
        for (((chunk, vector), address), message) in
            chunks.zip(&mut vectors).zip(&mut from).zip(&mut messages)
        {
            vector.iov_base = chunk.as_mut_ptr().cast();
            vector.iov_len = chunk.len();
            message.msg_hdr.msg_name = (&raw mut *address).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: each message points to one vector, one address and one chunk of `buffers`, all distinct and
        // alive until the results are read below. MSG_TRUNC makes the kernel report the true length, it never
        // writes beyond iov_len.
        let count = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) };
        };
        let chunks = self.buffers.chunks_exact(self.snap);
        for ((chunk, message), address) in chunks.zip(&messages).zip(&from).take(count) {
            let length = message.msg_len as usize;
            let bytes = chunk.get(..length).unwrap_or(chunk);
            each(Seen { bytes, length, outgoing: address.sll_pkttype == libc::PACKET_OUTGOING });
        }
        Ok(count)
    }

    /// How many frames the kernel has thrown away, since the start, because the buffer was full.
    pub(crate) fn lost(&mut self) -> io::Result<u64> {
        // SAFETY: a plain C structure for which zeroes are valid.
        let mut statistics: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: `statistics` lives through the call and `length` is its size.
        let got = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        // The kernel's counter starts again whenever it is read.
        self.lost += u64::from(statistics.tp_drops);
        Ok(self.lost)
    }

    /// Sends a whole Ethernet frame.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        nix::sys::socket::send(self.fd.as_raw_fd(), frame, nix::sys::socket::MsgFlags::empty())?;
        Ok(())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
