//! The whole table with SAs in it: what a used slot keeps of its last SA (nothing), what memory it takes, and real threads:
//! readers look SAs up, hold them for a while and check every part of them, while a writer replaces one after another.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Barrier, OnceLock};
use std::thread;

use portcullis_aead::{Engine, Key, Packet};
use portcullis_ipsec::{
    AddressRange, Encapsulation, EspAlgorithm, EspKey, InboundSa, OutboundSa, SaOptions, Spi, TenantId,
    TrafficSelector, TunnelEndpoints,
};

use super::*;

const READERS: usize = 2;
/// Pairs at a time.
const LIVE: usize = 32;
/// Pairs in all: every slot is used many times.
const ROUNDS: u32 = 6_000;

fn key(number: u32) -> EspKey {
    let mut keymat = [0; 20];
    for (index, word) in keymat.chunks_mut(4).enumerate() {
        word.copy_from_slice(&(number.wrapping_mul(index as u32 * 2 + 1)).to_be_bytes());
    }
    EspKey::from_keymat(EspAlgorithm::Aes128Gcm16, &keymat).unwrap()
}

fn addr(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 | number).into()
}

fn endpoints(number: u32) -> TunnelEndpoints {
    TunnelEndpoints { local: addr(1), remote: addr(number), encapsulation: Encapsulation::None }
}

fn selectors(number: u32) -> Vec<TrafficSelector> {
    vec![TrafficSelector::any(AddressRange::from(addr(number)))]
}

fn inbound(number: u32) -> InboundSa {
    InboundSa {
        key: key(number),
        esn: true,
        replay_window: 64,
        endpoints: endpoints(number),
        local_ts: selectors(number),
        remote_ts: selectors(number),
        tenant: TenantId(number),
        options: SaOptions::default(),
    }
}

fn outbound(number: u32) -> OutboundSa {
    OutboundSa {
        spi: Spi::new(1 << 31 | number).unwrap(),
        key: key(number),
        esn: true,
        endpoints: endpoints(number),
        local_ts: selectors(number),
        remote_ts: selectors(number),
        options: SaOptions::default(),
    }
}

/// What a key makes of zeros: tells keys apart by every octet that sealing reads of them.
fn sealed(engine: &Engine, key: &Key) -> [u8; 48] {
    let mut buffer = [0; 48];
    let mut packet =
        [Packet { key, nonce: [0; 12], aad: [0; 12], aad_len: 8, buffer: &mut buffer, authentic: false }];
    engine.seal(&mut packet);
    buffer
}

fn of_number(engine: &Engine, number: u32) -> [u8; 48] {
    let key = engine.key(portcullis_aead::Algorithm::Aes128Gcm, key(number).key()).unwrap();
    sealed(engine, &key)
}

/// Where the writer shows what it has installed, for readers to find it or find it gone.
struct Board {
    spis: [AtomicU32; LIVE],
    references: [AtomicU64; LIVE],
    done: AtomicBool,
    found: [AtomicUsize; 2],
}

fn read(table: &SaTable, board: &Board, start: &Barrier) {
    let engine = table.engine();
    let mut reader = table.reclaimer().register().unwrap();
    start.wait();
    let mut turn = 0_usize;
    while !board.done.load(SeqCst) {
        turn += 1;
        let guard = reader.guard();
        let place = turn % LIVE;
        let spi = board.spis[place].load(SeqCst);
        let at = table.locate(spi);
        table.prefetch_inbound(at);
        let inbound = table.inbound_at(&guard, at);
        let reference = OutboundRef::from_word(board.references[place].load(SeqCst));
        let outbound = reference.and_then(|reference| table.outbound(&guard, reference));
        // Twice: it stays what it is while the guard lives, whatever the writer does meanwhile.
        for _ in 0..2 {
            if let Some(sa) = inbound {
                let TenantId(number) = sa.tenant;
                sa.prefetch(64);
                assert_eq!(sa.spi.get(), spi);
                assert_eq!(sa.salt(), key(number).salt());
                assert_eq!(sa.endpoints.get(), endpoints(number));
                assert_eq!(sa.remote_ts(), selectors(number));
                assert_eq!((sa.replay().window(), sa.replay().highest()), (64, 0));
                assert_eq!(sealed(&engine, sa.key()), of_number(&engine, number));
            }
            if let Some(sa) = outbound {
                let number = sa.spi.get() & !(1 << 31);
                sa.prefetch(64);
                assert_eq!(sa.salt(), key(number).salt());
                assert_eq!(sa.endpoints.get(), endpoints(number));
                assert_eq!(sa.local_ts(), selectors(number));
                assert_eq!(sa.next_sequence(), 1);
                assert_eq!(sealed(&engine, sa.key()), of_number(&engine, number));
            }
        }
        board.found[0].fetch_add(usize::from(inbound.is_some()), SeqCst);
        board.found[1].fetch_add(usize::from(outbound.is_some()), SeqCst);
        reader.quiescent();
        if turn.is_multiple_of(64) {
            reader.offline();
        }
    }
}

#[test]
fn readers_never_see_a_freed_or_torn_sa_while_a_writer_replaces_all_of_them() {
    let reclaimer = Reclaimer::new(READERS);
    // Room for those that readers may still hold.
    let table = SaTable::new(LIVE + 16, Engine::select(None).unwrap(), [9; 16], reclaimer).unwrap();
    let board = Board {
        spis: std::array::from_fn(|_| AtomicU32::new(0)),
        references: std::array::from_fn(|_| AtomicU64::new(0)),
        done: AtomicBool::new(false),
        found: [AtomicUsize::new(0), AtomicUsize::new(0)],
    };
    /// Ends the readers also when the writer fails.
    struct Done<'b>(&'b AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let ended = OnceLock::new();
    let start = Barrier::new(READERS + 1);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| read(&table, &board, &start))).collect();
        let _done = Done(&board.done);
        start.wait();
        let mut pairs: [Option<(Spi, OutboundRef)>; LIVE] = [None; LIVE];
        let mut number = 0;
        while number < ROUNDS {
            // A reader that failed would never pass again.
            if readers.iter().any(|reader| reader.is_finished()) {
                return;
            }
            let place = number as usize % LIVE;
            let mut control = table.control();
            if let Some((spi, reference)) = pairs[place].take() {
                assert!(control.withdraw_outbound(reference) && control.withdraw_inbound(spi));
            }
            control.collect(|_| {}, |_| {});
            let Ok(spi) = control.reserve_spi() else {
                // Readers hold the rest: let them pass.
                drop(control);
                thread::yield_now();
                continue;
            };
            control.publish_inbound(spi, &inbound(number)).unwrap();
            let reference = control.publish_outbound(spi, &outbound(number)).unwrap();
            drop(control);
            pairs[place] = Some((spi, reference));
            board.spis[place].store(spi.get(), SeqCst);
            board.references[place].store(reference.to_word(), SeqCst);
            number += 1;
        }
        ended.set(()).unwrap();
    });
    assert!(ended.get().is_some(), "a reader failed");
    assert!(
        board.found.iter().all(|found| found.load(SeqCst) > 0),
        "nothing was ever found: {:?}",
        board.found
    );
}

#[test]
fn an_sa_in_a_used_slot_begins_with_an_empty_replay_window() {
    let reclaimer = Reclaimer::new(1);
    let table = SaTable::new(1, Engine::select(None).unwrap(), [9; 16], reclaimer).unwrap();
    let mut control = table.control();
    for window in [8192, 64, 1024, 0, 8192, 8192] {
        let spi = control.reserve_spi().unwrap();
        control.publish_inbound(spi, &InboundSa { replay_window: window, ..inbound(7) }).unwrap();
        let replay = control.inbound(spi).unwrap().replay();
        assert_eq!(replay.highest(), 0);
        for number in (1..20_000).rev().take(window.max(1) as usize).chain(20_000..40_000) {
            assert_eq!(replay.accept(number), Ok(()), "{number} in a window of {window}");
        }
        assert!(control.withdraw_inbound(spi));
        control.collect(|_| {}, |_| {});
    }
}

#[test]
#[cfg(not(miri))]
fn an_empty_table_of_a_million_pairs_takes_hardly_any_memory() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident();
    let reclaimer = Reclaimer::new(1);
    let table = SaTable::new(1_000_000, Engine::select(None).unwrap(), [9; 16], reclaimer).unwrap();
    let mut control = table.control();
    for number in 0..100 {
        let spi = control.reserve_spi().unwrap();
        control.publish_inbound(spi, &inbound(number)).unwrap();
        control.publish_outbound(spi, &outbound(number)).unwrap();
    }
    // A few huge pages, with room for what other tests allocate meanwhile; the whole would be five thousand.
    assert!(resident().saturating_sub(before) < 256 << 20);
}
