//! No engine reads or writes past a buffer: packets that begin or end where the next page is not mapped.
#![cfg(all(target_os = "linux", not(miri)))]
#![expect(unsafe_code, reason = "memory is mapped and protected")]

use portcullis_aead::{Algorithm, Engine, EngineError, EngineKind, Packet, TAG_LEN};

const PAGE: usize = 4096;
const PAGES: usize = 4;

/// Pages between two that may not be touched.
struct Island {
    start: *mut u8,
}

impl Island {
    fn new() -> Self {
        let len = PAGE * (PAGES + 2);
        // SAFETY: a new mapping, of which the middle is then opened.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let outer = libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(outer, libc::MAP_FAILED);
            let start = outer.cast::<u8>().add(PAGE);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(start.cast(), PAGE * PAGES, access), 0);
            Self { start }
        }
    }

    fn octets(&mut self) -> &mut [u8] {
        // SAFETY: mapped above, and borrowed with the island.
        unsafe { std::slice::from_raw_parts_mut(self.start, PAGE * PAGES) }
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nothing else refers to.
        unsafe { libc::munmap(self.start.sub(PAGE).cast(), PAGE * (PAGES + 2)) };
    }
}

#[test]
fn packets_at_the_edge_of_mapped_memory_are_sealed_and_opened() {
    // Five: engines may work on four of a kind together.
    let mut islands: [Island; 5] = std::array::from_fn(|_| Island::new());
    for kind in EngineKind::ALL {
        let engine = match Engine::select(Some(*kind)) {
            Ok(engine) => engine,
            Err(EngineError::Unsupported { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        for algorithm in [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm] {
            let key = engine.key(algorithm, &[0x42; 32][..algorithm.key_len()]).unwrap();
            for len in (0..1_100).chain([1_424, 4_000, 8_960]) {
                for at_end in [false, true] {
                    let mut batch = islands.each_mut().map(|island| {
                        let octets = island.octets();
                        let start = if at_end { octets.len() - len - TAG_LEN } else { 0 };
                        let buffer = &mut octets[start..start + len + TAG_LEN];
                        buffer.fill(0x33);
                        Packet {
                            key: &key,
                            nonce: [9; 12],
                            aad: [8; 12],
                            aad_len: 12,
                            buffer,
                            authentic: false,
                        }
                    });
                    engine.seal(&mut batch);
                    engine.open(&mut batch);
                    for packet in batch {
                        assert!(packet.authentic, "{kind}, {len} octets");
                        assert!(
                            packet.buffer[..len].iter().all(|octet| *octet == 0x33),
                            "{kind}, {len} octets"
                        );
                    }
                }
            }
        }
    }
}
