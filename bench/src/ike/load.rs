//! The load: clients that begin a task as soon as another is done, so many at once, from one thread.
//!
//! A tunnel, or a CHILD SA's successor, counts when the first packet that was sealed with it has arrived inside; without a
//! CHILD SA, when IKE says so.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use portcullis_aead::Engine;
use portcullis_ike::engine::{Datagram, DatagramPayload};

use super::client::{Carries, Client, Task};
use super::credentials::Credentials;
use super::esp::Stamp;
use super::place::{GATEWAY, Place, client_of, outer};
use super::sockets::{BUFFER, Port, Sockets};

/// Before an IKE message on the NAT port (RFC 3948 §2.2).
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// How often what was not answered is looked for.
const TICK: Duration = Duration::from_millis(20);
/// After this, a packet that has not arrived is sent again.
const ESP_PATIENCE: Duration = Duration::from_millis(200);
/// Clients of which no more is kept than their number, once they are up, do not rekey.
const KEPT: u32 = 20_000;
/// Where ESP and IKE go.
const NAT_PORT: SocketAddrV4 = SocketAddrV4::new(GATEWAY, 4500);

/// What came of some tasks.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) done: u32,
    pub(crate) took: Duration,
    pub(crate) latencies: Vec<Duration>,
    /// How long the clients had nothing to do.
    pub(crate) idle: Duration,
    /// Datagrams and packets that were sent again.
    pub(crate) repeated: u64,
}

impl Round {
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.done) / self.took.as_secs_f64().max(1e-9)
    }
}

/// A task under way.
#[derive(Debug)]
struct UnderWay {
    begun: Instant,
    /// When a packet was last sent through the tunnel.
    sealed: Option<Instant>,
}

/// The clients of one responder.
#[derive(Debug)]
pub(crate) struct Load {
    sockets: Sockets,
    engine: Engine,
    carries: Carries,
    credentials: std::rc::Rc<Credentials>,
    clients: HashMap<u32, Box<Client>>,
    /// Tunnels that are up.
    up: u32,
    /// The next to be rekeyed.
    next_rekey: u32,
    under_way: HashMap<u32, UnderWay>,
    buffer: Vec<u8>,
    out: Vec<Datagram>,
}

impl Load {
    pub(crate) fn new(
        place: &Place,
        carries: Carries,
        credentials: std::rc::Rc<Credentials>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            sockets: Sockets::open(place)?,
            engine: Engine::select(None)?,
            carries,
            credentials,
            clients: HashMap::new(),
            up: 0,
            next_rekey: 0,
            under_way: HashMap::new(),
            buffer: vec![0; BUFFER],
            out: Vec::new(),
        })
    }

    /// Tunnels that are up.
    pub(crate) fn up(&self) -> u32 {
        self.up
    }

    /// Brings so many more tunnels up, so many at once. Ends at `until` with those that are up by then.
    pub(crate) fn establish(&mut self, count: u32, at_once: usize, until: Instant) -> anyhow::Result<Round> {
        let numbers: Vec<u32> = (self.up..self.up + count).collect();
        for number in &numbers {
            let client = Client::prepare(*number, &self.credentials, self.carries)?;
            self.clients.insert(*number, Box::new(client));
        }
        let round = self.run(&numbers, Task::Establish, at_once, until)?;
        self.up += count;
        Ok(round)
    }

    /// Rekeys so many of those that are up, in turn.
    pub(crate) fn rekey(
        &mut self,
        task: Task,
        count: u32,
        at_once: usize,
        until: Instant,
    ) -> anyhow::Result<Round> {
        let all = self.up.clamp(1, KEPT);
        let numbers: Vec<u32> = (0..count.min(all)).map(|step| (self.next_rekey + step) % all).collect();
        self.next_rekey += count;
        for number in &numbers {
            if let Some(client) = self.clients.get_mut(number) {
                client.prepare_to(Instant::now(), task)?;
            }
        }
        self.run(&numbers, task, at_once, until)
    }

    fn run(&mut self, numbers: &[u32], task: Task, at_once: usize, until: Instant) -> anyhow::Result<Round> {
        let mut round = Round::default();
        let mut waiting = numbers.iter().copied();
        let (start, mut ticked) = (Instant::now(), Instant::now());
        loop {
            while self.under_way.len() < at_once
                && let Some(number) = waiting.next()
            {
                self.begin(number)?;
            }
            if self.under_way.is_empty() {
                break;
            }
            let (now, quiet) = (Instant::now(), !self.receive(&mut round)?);
            if quiet {
                self.sockets.wait(TICK)?;
                round.idle += now.elapsed();
            }
            if now.duration_since(ticked) >= TICK {
                ticked = now;
                self.tick(now, &mut round)?;
                anyhow::ensure!(
                    now < until,
                    "{} of {} were done in {:.0} s",
                    round.done,
                    numbers.len(),
                    start.elapsed().as_secs_f64()
                );
            }
        }
        round.took = start.elapsed();
        if task == Task::Establish {
            numbers.iter().filter(|number| **number >= KEPT).for_each(|number| {
                self.clients.remove(number);
            });
        }
        Ok(round)
    }

    fn begin(&mut self, number: u32) -> anyhow::Result<()> {
        let Some(client) = self.clients.get_mut(&number) else { return Ok(()) };
        let begun = Instant::now();
        self.under_way.insert(number, UnderWay { begun, sealed: None });
        client.begin(begun, &mut self.out);
        self.flush()
    }

    /// Takes what is there; whether there was anything.
    fn receive(&mut self, round: &mut Round) -> anyhow::Result<bool> {
        let mut any = false;
        while let Some(stamp) = self.arrived()? {
            any = true;
            let Some(client) = self.clients.get(&stamp.client) else { continue };
            if client.done && client.esp.as_ref().is_some_and(|esp| esp.generation() == stamp.generation) {
                self.end(stamp.client, round);
            }
        }
        for nat in [false, true] {
            let port = if nat { &self.sockets.nat } else { &self.sockets.ike };
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = port.receive(&mut buffer)?;
            if let Some((to, len)) = received {
                any = true;
                let octets = buffer.get(..len).unwrap_or_default();
                let payload = if nat { octets.strip_prefix(&NON_ESP_MARKER) } else { Some(octets) };
                let local = port.of(to);
                if let (Some(number), Some(payload)) = (client_of(to), payload) {
                    let payload = DatagramPayload::Ike(payload.to_vec());
                    let remote = SocketAddr::new(GATEWAY.into(), local.port());
                    self.answered(number, Datagram { local, remote, payload }, round)?;
                }
            }
            self.buffer = buffer;
        }
        Ok(any)
    }

    /// What has come through a tunnel.
    fn arrived(&self) -> io::Result<Option<Stamp>> {
        let mut payload = [0; 64];
        loop {
            match self.sockets.inside.recv(&mut payload) {
                Ok(len) => {
                    if let Some(stamp) = Stamp::parse(payload.get(..len).unwrap_or_default()) {
                        return Ok(Some(stamp));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn answered(&mut self, number: u32, datagram: Datagram, round: &mut Round) -> anyhow::Result<()> {
        let Some(client) = self.clients.get_mut(&number) else { return Ok(()) };
        let now = Instant::now();
        client.receive(now, datagram, &mut self.out)?;
        if let Some(failure) = client.failure.take() {
            anyhow::bail!("client {number}: {failure}");
        }
        let done = client.done;
        self.flush()?;
        let sealed = self.under_way.get(&number).is_none_or(|under_way| under_way.sealed.is_some());
        if done && self.carries == Carries::Nothing {
            self.end(number, round);
        } else if done
            && !sealed
            && self.seal(number)?
            && let Some(under_way) = self.under_way.get_mut(&number)
        {
            under_way.sealed = Some(now);
        }
        Ok(())
    }

    /// Sends a packet through a tunnel, if there is one.
    fn seal(&mut self, number: u32) -> anyhow::Result<bool> {
        let esp = self.clients.get_mut(&number).and_then(|client| client.esp.as_mut());
        let Some(packet) = esp.and_then(|esp| esp.seal(&self.engine)) else { return Ok(false) };
        send(&self.sockets.nat, outer(number), NAT_PORT, [&packet, &[]])?;
        Ok(true)
    }

    fn end(&mut self, number: u32, round: &mut Round) {
        if let Some(under_way) = self.under_way.remove(&number) {
            round.done += 1;
            round.latencies.push(under_way.begun.elapsed());
        }
    }

    fn tick(&mut self, now: Instant, round: &mut Round) -> anyhow::Result<()> {
        let numbers: Vec<u32> = self.under_way.keys().copied().collect();
        for number in numbers {
            if let Some(client) = self.clients.get_mut(&number) {
                client.wake(now, &mut self.out)?;
            }
            let late = self.under_way.get(&number).and_then(|under_way| under_way.sealed);
            if late.is_some_and(|sealed| now.saturating_duration_since(sealed) > ESP_PATIENCE)
                && self.seal(number)?
                && let Some(under_way) = self.under_way.get_mut(&number)
            {
                under_way.sealed = Some(now);
                round.repeated += 1;
            }
        }
        round.repeated += self.out.len() as u64;
        self.flush()
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        for Datagram { local, remote, payload } in self.out.drain(..) {
            let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (local, remote) else { continue };
            let DatagramPayload::Ike(message) = payload else { continue };
            if remote.port() == NAT_PORT.port() {
                send(&self.sockets.nat, *local.ip(), remote, [&NON_ESP_MARKER, &message])?;
            } else {
                send(&self.sockets.ike, *local.ip(), remote, [&message, &[]])?;
            }
        }
        Ok(())
    }
}

/// A full queue loses a datagram as the network may.
fn send(port: &Port, from: Ipv4Addr, to: SocketAddrV4, parts: [&[u8]; 2]) -> io::Result<()> {
    match port.send(from, to, parts) {
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOBUFS | nix::libc::EAGAIN)) => Ok(()),
        other => other,
    }
}
