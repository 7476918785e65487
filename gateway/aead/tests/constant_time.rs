//! No branch and no address depends on a key or a text, as far as valgrind sees: it is told that both are undefined,
//! and reports every decision that is made on them. Run by `./dev memcheck`; valgrind has AVX2, AES-NI and PCLMULQDQ,
//! so that the engines `aesni` and `portable` are what is tried.
//!
//! Opening is sealing but for the comparison of tags, whose outcome is public and decided on: it is not tried here.
#![cfg(all(target_arch = "x86_64", not(miri)))]
#![expect(unsafe_code, reason = "requests to valgrind are instructions that do nothing elsewhere")]

use portcullis_aead::{Algorithm, Engine, EngineError, EngineKind, Packet, TAG_LEN};

/// Requests of valgrind.h and memcheck.h.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Request {
    RunningOnValgrind = 0x1001,
    CountErrors = 0x1201,
    MakeMemUndefined = 0x4d43_0001,
    MakeMemDefined = 0x4d43_0002,
}

/// What valgrind answers; 0 without it.
fn ask(request: Request, memory: &mut [u8]) -> usize {
    // Mutable and exposed: no access may be moved across the request.
    let arguments = [request as usize, memory.as_mut_ptr().expose_provenance(), memory.len(), 0, 0, 0];
    let mut answer = 0_usize;
    // SAFETY: rotations by 128 bits in all, and an exchange of a register with itself.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") arguments.as_ptr(),
            inout("rdx") answer,
            out("rdi") _,
        );
    }
    answer
}

fn errors() -> usize {
    ask(Request::CountErrors, &mut [])
}

#[test]
#[ignore = "needs valgrind: ./dev memcheck"]
fn sealing_decides_nothing_on_keys_or_texts() {
    assert!(ask(Request::RunningOnValgrind, &mut []) > 0, "not under valgrind");
    let mut tried = Vec::new();
    for kind in EngineKind::ALL {
        let engine = match Engine::select(Some(*kind)) {
            Ok(engine) => engine,
            Err(EngineError::Unsupported { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        tried.push(*kind);
        for algorithm in [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm] {
            for len in [0, 1, 16, 63, 64, 100, 300, 1_424] {
                let before = errors();
                let mut secret = [0x42; 32];
                ask(Request::MakeMemUndefined, &mut secret);
                let key = engine.key(algorithm, &secret[..algorithm.key_len()]).unwrap();
                let mut buffers = vec![vec![0x33; len + TAG_LEN]; 5];
                let mut batch: Vec<Packet<'_>> = buffers
                    .iter_mut()
                    .map(|buffer| {
                        ask(Request::MakeMemUndefined, &mut buffer[..len]);
                        Packet {
                            key: &key,
                            nonce: [9; 12],
                            aad: [8; 12],
                            aad_len: 12,
                            buffer,
                            authentic: false,
                        }
                    })
                    .collect();
                engine.seal(&mut batch);
                drop(batch);
                drop(key);
                buffers.iter_mut().for_each(|buffer| _ = ask(Request::MakeMemDefined, buffer));
                assert_eq!(errors(), before, "{kind}, {algorithm:?}, {len} octets");
            }
        }
    }
    assert!(tried.contains(&EngineKind::AesNi) && tried.contains(&EngineKind::Portable), "{tried:?}");
}

/// That the above would notice.
#[test]
#[ignore = "needs valgrind: ./dev memcheck"]
fn a_table_that_a_secret_indexes_is_reported() {
    let table: [u8; 256] = std::hint::black_box(std::array::from_fn(|at| at as u8));
    let before = errors();
    let mut secret = [3_u8];
    ask(Request::MakeMemUndefined, &mut secret);
    std::hint::black_box(table[usize::from(secret[0])]);
    ask(Request::MakeMemDefined, &mut secret);
    assert!(errors() > before);
}
