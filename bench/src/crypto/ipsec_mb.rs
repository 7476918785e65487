//! Intel's ipsec-mb (1.3), by its direct AES-GCM functions for VAES and AVX-512.
//!
//! It has two rows: `ipsec-mb` reads nonces that were laid out long before; `ipsec-mb-fresh-nonce` has each written just
//! before its call, as a gateway does, and waits some 10 ns for the store.

use portcullis_aead::Algorithm;

use super::peers::{Absent, Peer};

fn name(fresh: bool) -> &'static str {
    if fresh { "ipsec-mb-fresh-nonce" } else { "ipsec-mb" }
}

#[cfg(not(ipsec_mb))]
pub(crate) fn peer(_algorithm: Algorithm, _key: &[u8], fresh: bool) -> Result<Box<dyn Peer>, Absent> {
    Err(Absent {
        name: name(fresh),
        why: "not installed when this was built (Debian: libipsec-mb-dev)".into(),
    })
}

#[cfg(ipsec_mb)]
pub(crate) use linked::peer;

#[cfg(ipsec_mb)]
mod linked {
    #![expect(unsafe_code, reason = "a foreign library")]

    use portcullis_aead::TAG_LEN;

    use super::{Absent, Algorithm, Peer, name};
    use crate::crypto::batch::{AAD_LEN, Batch};

    /// `struct gcm_key_data` (at most 16 * 15 + 16 * 48 octets, aligned to 64) and `struct gcm_context_data`, with
    /// room to spare.
    #[repr(C, align(64))]
    struct Room([u8; 2048]);

    type Precompute = unsafe extern "C" fn(*const u8, *mut Room);
    /// Key data, context, out, in, octets, IV (12 octets), AAD, its octets, tag, its octets.
    type Process = unsafe extern "C" fn(
        *const Room,
        *mut Room,
        *mut u8,
        *const u8,
        u64,
        *const u8,
        *const u8,
        u64,
        *mut u8,
        u64,
    );

    macro_rules! functions {
        ($($name:ident($($argument:ty),*);)*) => {
            // SAFETY: declared in intel-ipsec-mb.h with these arguments.
            unsafe extern "C" {
                $(fn $name($(_: $argument),*);)*
            }
        };
    }
    functions! {
        aes_gcm_pre_128_vaes_avx512(*const u8, *mut Room);
        aes_gcm_pre_256_vaes_avx512(*const u8, *mut Room);
        aes_gcm_enc_128_vaes_avx512(*const Room, *mut Room, *mut u8, *const u8, u64, *const u8, *const u8, u64, *mut u8, u64);
        aes_gcm_enc_256_vaes_avx512(*const Room, *mut Room, *mut u8, *const u8, u64, *const u8, *const u8, u64, *mut u8, u64);
        aes_gcm_dec_128_vaes_avx512(*const Room, *mut Room, *mut u8, *const u8, u64, *const u8, *const u8, u64, *mut u8, u64);
        aes_gcm_dec_256_vaes_avx512(*const Room, *mut Room, *mut u8, *const u8, u64, *const u8, *const u8, u64, *mut u8, u64);
    }

    struct IpsecMb {
        key: Box<Room>,
        context: Box<Room>,
        enc: Process,
        dec: Process,
        /// Whether nonces are written just before each call.
        fresh: bool,
    }

    impl IpsecMb {
        /// The nonce to be read, if need be written to `room` first: salt and IV, as they come from an SA.
        fn nonce(&self, laid_out: &[u8; 12], room: &mut [u8; 12]) -> *const u8 {
            if !self.fresh {
                return laid_out.as_ptr();
            }
            let (salt, iv) = laid_out.split_at(4);
            room[..4].copy_from_slice(salt);
            room[4..].copy_from_slice(iv);
            std::hint::black_box(room).as_ptr()
        }
    }

    pub(crate) fn peer(algorithm: Algorithm, key: &[u8], fresh: bool) -> Result<Box<dyn Peer>, Absent> {
        if !(std::arch::is_x86_feature_detected!("vaes") && std::arch::is_x86_feature_detected!("avx512bw")) {
            return Err(Absent { name: name(fresh), why: "this processor lacks VAES or AVX-512".into() });
        }
        let (precompute, enc, dec): (Precompute, Process, Process) = match algorithm {
            Algorithm::Aes128Gcm => {
                (aes_gcm_pre_128_vaes_avx512, aes_gcm_enc_128_vaes_avx512, aes_gcm_dec_128_vaes_avx512)
            }
            Algorithm::Aes256Gcm => {
                (aes_gcm_pre_256_vaes_avx512, aes_gcm_enc_256_vaes_avx512, aes_gcm_dec_256_vaes_avx512)
            }
            _ => return Err(Absent { name: "ipsec-mb", why: format!("not asked for {algorithm:?}") }),
        };
        let mut room = Box::new(Room([0; 2048]));
        assert_eq!(key.len(), algorithm.key_len());
        // SAFETY: the key is as long as the algorithm's; the room is large enough and aligned.
        unsafe { precompute(key.as_ptr(), &raw mut *room) };
        Ok(Box::new(IpsecMb { key: room, context: Box::new(Room([0; 2048])), enc, dec, fresh }))
    }

    impl Peer for IpsecMb {
        fn name(&self) -> String {
            name(self.fresh).into()
        }

        fn seal(&mut self, batch: &mut Batch) {
            for frame in &mut batch.frames {
                let mut room = [0; 12];
                let (nonce, aad) = (self.nonce(&frame.nonce, &mut room), frame.aad.as_ptr());
                let Some((text, tag)) = frame.buffer().split_last_chunk_mut::<TAG_LEN>() else { continue };
                let (place, len) = (text.as_mut_ptr(), text.len() as u64);
                // SAFETY: in place is allowed; all lengths are those of the slices and arrays.
                unsafe {
                    (self.enc)(
                        &raw const *self.key,
                        &raw mut *self.context,
                        place,
                        place,
                        len,
                        nonce,
                        aad,
                        AAD_LEN as u64,
                        tag.as_mut_ptr(),
                        TAG_LEN as u64,
                    );
                }
            }
        }

        fn open(&mut self, batch: &mut Batch) -> bool {
            let mut right = true;
            for frame in &mut batch.frames {
                let mut room = [0; 12];
                let (nonce, aad) = (self.nonce(&frame.nonce, &mut room), frame.aad.as_ptr());
                let Some((text, tag)) = frame.buffer().split_last_chunk_mut::<TAG_LEN>() else { continue };
                let (place, len) = (text.as_mut_ptr(), text.len() as u64);
                let mut computed = [0; TAG_LEN];
                // SAFETY: as above.
                unsafe {
                    (self.dec)(
                        &raw const *self.key,
                        &raw mut *self.context,
                        place,
                        place,
                        len,
                        nonce,
                        aad,
                        AAD_LEN as u64,
                        computed.as_mut_ptr(),
                        TAG_LEN as u64,
                    );
                }
                // The library leaves the comparison to its caller.
                right &= u128::from_ne_bytes(computed) == u128::from_ne_bytes(*tag);
            }
            right
        }
    }
}
