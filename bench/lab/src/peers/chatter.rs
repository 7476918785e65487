//! A steady trickle of UDP datagrams that nothing stops: not a missing route, not a dead gateway, not ICMP errors.
//! It is the protected flow that must not appear in clear, whatever happens to the gateways meanwhile.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{LabError, Result};
use crate::host::Host;

/// Every datagram begins with it.
const MARK: &[u8] = b"portcullis-lab-protected-payload";
/// The pace: quick enough that a gap of some milliseconds in a gateway's protection is hit.
const PAUSE: Duration = Duration::from_millis(2);
const PORT: u16 = 9;

/// A running trickle; ends when dropped.
#[derive(Debug)]
pub struct Chatter {
    shared: Arc<Shared>,
    sender: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    sent: u64,
    stop: bool,
}

impl Chatter {
    /// Sends from one address of a host, from `flows` source ports in turn, to another host's discard port.
    ///
    /// # Errors
    /// When the address is not the host's.
    pub fn start(host: &Host, from: IpAddr, to: IpAddr, flows: usize) -> Result<Self> {
        Self::start_with(host, from, to, flows, MARK.len())
    }

    /// The same with so many octets in a datagram, or a few more.
    ///
    /// # Errors
    /// As [`Chatter::start`].
    pub fn start_with(host: &Host, from: IpAddr, to: IpAddr, flows: usize, octets: usize) -> Result<Self> {
        let datagram = MARK.repeat(octets.div_ceil(MARK.len()));
        let sockets =
            host.enter(|| (0..flows).map(|_| UdpSocket::bind((from, 0))).collect::<Result<Vec<_>, _>>())?;
        let sockets = sockets.map_err(LabError::io(format!("bind to {from} on {}", host.name())))?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let sender =
            std::thread::spawn(move || send(&sockets, SocketAddr::new(to, PORT), &datagram, &theirs));
        Ok(Self { shared, sender: Some(sender) })
    }

    /// Waits until `count` more datagrams have been sent than when this was called.
    pub fn wait_more(&self, count: u64, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        let wanted = state.sent + count;
        while state.sent < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let what = format!("{count} more datagrams to be sent");
                return Err(LabError::Timeout {
                    what,
                    waited: within,
                    seen: format!("{} of {wanted}", state.sent),
                });
            }
            state = self.shared.wait(state, left);
        }
        Ok(())
    }
}

impl Drop for Chatter {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(sender) = self.sender.take() {
            // A sender that panicked has already printed why.
            let _ended = sender.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
        self.changed
            .wait_timeout(state, left)
            .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state)
    }
}

fn send(sockets: &[UdpSocket], to: SocketAddr, datagram: &[u8], shared: &Shared) {
    for socket in sockets.iter().cycle() {
        // What an earlier datagram met (no route, unreachable, refused) is reported here; the flow goes on.
        let _earlier_error = socket.send_to(datagram, to);
        let mut state = shared.lock();
        state.sent += 1;
        shared.changed.notify_all();
        let next = Instant::now() + PAUSE;
        loop {
            if state.stop {
                return;
            }
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = shared.wait(state, left);
        }
    }
}
