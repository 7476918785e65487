//! What AES-NI and AVX2 have in common: an engine without masked memory access, generic over the width of a vector.
//!
//! Blocks of text are taken STEP vectors at a time; the rest, less than a step, goes with the block that masks the
//! tag. GHASH takes each step in one pass over as many powers of H, and the rest together with the lengths. Seals
//! hash a step after it was enciphered, opens before; either way it is read from the buffer, which spares registers.
//!
//! A last, partial block is read and written whole: behind the text lies the room for the tag, which is written
//! last. (An opened packet's tag is put back.) Only GHASH masks off what is not text.
#![expect(clippy::indexing_slicing, reason = "a table made at compile time")]

/// The engine's code, with the vector operations of the module where it is expanded: `Vector`, `LANES`, `STEP` and the
/// functions `read`, `write`, `xor`, `enc`, `enc_last`, `multiply`, `reverse`, `in_words`, `spread`, `plus`, `total`.
macro_rules! engine {
    ($features:literal, $($tail:literal)*) => {
        /// Seals or opens packets.
        #[target_feature(enable = $features)]
        pub(super) fn run<const SEAL: bool>(packets: &mut [Packet<'_>]) {
            for packet in packets {
                match class(packet) {
                    Some((10, _)) => one::<10, SEAL>(Job::new(packet)),
                    Some(_) => one::<14, SEAL>(Job::new(packet)),
                    None => super::other::<SEAL>(packet),
                }
            }
        }

        #[target_feature(enable = $features)]
        fn one<const ROUNDS: usize, const SEAL: bool>(mut job: Job<'_>) {
            let text = job.text();
            let len = job.octets() - TAG_LEN;
            // The last word of each block counts up, in the machine's order. J0 has 1, the text begins with 2.
            let nonce = _mm_insert_epi32::<3>(job.nonce, 0);
            let mut counter = count_from(nonce);
            let mut state = super::block::multiply(
                _mm_shuffle_epi8(job.aad, load(&REVERSE)),
                load(&job.key.powers[POWERS - 1]),
            );
            let mut done = 0;
            while len - done >= STEP_LEN {
                // SAFETY: STEP vectors of text are left.
                unsafe {
                    let place = text.add(done);
                    if !SEAL {
                        state = hash_step(job.key, place, state);
                    }
                    encipher_step::<ROUNDS>(job.key, place, &mut counter);
                    if SEAL {
                        state = hash_step(job.key, place, state);
                    }
                }
                done += STEP_LEN;
            }
            let left = len - done;
            // SAFETY: `left` octets of text are left, less than a step, and sixteen of tag behind them.
            let tag = unsafe {
                let place = text.add(done);
                match left.div_ceil(16 * LANES) {
                    $($tail => rest::<$tail, ROUNDS, SEAL>(&job, place, left, nonce, counter, state),)*
                    _ => rest::<0, ROUNDS, SEAL>(&job, place, left, nonce, counter, state),
                }
            };
            job.finish::<SEAL>(tag);
        }

        /// # Safety
        /// STEP vectors may be read and written at `place`.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn encipher_step<const ROUNDS: usize>(key: &Key, place: *mut u8, counter: &mut Vector) {
            let first = spread(&key.rounds[0]);
            let mut blocks = [first; STEP];
            for block in &mut blocks {
                *block = xor(in_words(*counter), first);
                *counter = plus::<LANES>(*counter);
            }
            for round in &key.rounds[1..ROUNDS] {
                let round = spread(round);
                for block in &mut blocks {
                    *block = enc(*block, round);
                }
            }
            let last = spread(&key.rounds[ROUNDS]);
            for (v, block) in blocks.into_iter().enumerate() {
                // SAFETY: by contract.
                unsafe {
                    let place = place.add(16 * LANES * v);
                    write(place, enc_last(block, xor(last, read(place))));
                }
            }
        }

        /// # Safety
        /// STEP vectors may be read at `place`.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn hash_step(key: &Key, place: *const u8, state: __m128i) -> __m128i {
            let mut sum = Sum::none();
            for v in 0..STEP {
                // SAFETY: by contract; the powers are those from H^(STEP * LANES) down to H^1.
                unsafe {
                    let blocks = reverse(read(place.add(16 * LANES * v)));
                    let blocks = if v == 0 { xor(blocks, lowest(state)) } else { blocks };
                    sum.add(blocks, read(powers(key, STEP * LANES - LANES * v)));
                }
            }
            sum.reduce()
        }

        /// Enciphers the last N vectors of text, completes the hash and returns the tag.
        ///
        /// # Safety
        /// At `place` lie `left` octets of text, of which N vectors can be filled if the last may be partial, and
        /// sixteen more.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn rest<const N: usize, const ROUNDS: usize, const SEAL: bool>(
            job: &Job<'_>,
            place: *mut u8,
            left: usize,
            nonce: __m128i,
            mut counter: Vector,
            state: __m128i,
        ) -> __m128i {
            let key = job.key;
            let first = spread(&key.rounds[0]);
            let mut blocks = [first; N];
            for block in &mut blocks {
                *block = xor(in_words(counter), first);
                counter = plus::<LANES>(counter);
            }
            let mut mask = _mm_xor_si128(_mm_insert_epi32::<3>(nonce, 1 << 24), load(&key.rounds[0]));
            for round in &key.rounds[1..ROUNDS] {
                let wide = spread(round);
                mask = _mm_aesenc_si128(mask, load(round));
                for block in &mut blocks {
                    *block = enc(*block, wide);
                }
            }
            let last = spread(&key.rounds[ROUNDS]);
            mask = _mm_aesenclast_si128(mask, load(&key.rounds[ROUNDS]));

            // With the lengths, this many powers of H are left.
            let mut power = left.div_ceil(16) + 1;
            let mut sum = Sum::none();
            let mut state = state;
            for (v, block) in blocks.into_iter().enumerate() {
                // SAFETY: by contract.
                unsafe {
                    let place = place.add(16 * LANES * v);
                    if v + 1 < N {
                        let before = read(place);
                        let after = enc_last(block, xor(last, before));
                        write(place, after);
                        let blocks = xor(reverse(if SEAL { after } else { before }), lowest(state));
                        sum.add(blocks, read(powers(key, power)));
                        state = _mm_setzero_si128();
                        power -= LANES;
                    } else {
                        let mut left = left - 16 * LANES * v;
                        let keystream = lanes(enc_last(block, last));
                        for (lane, keystream) in keystream.into_iter().enumerate() {
                            if lane == 0 || left > 0 {
                                let place = place.add(16 * lane);
                                let before = _mm_loadu_si128(place.cast());
                                let after = _mm_xor_si128(before, keystream);
                                _mm_storeu_si128(place.cast(), after);
                                let text = load(&TEXT_MASKS[left.min(16)]);
                                let block = _mm_and_si128(if SEAL { after } else { before }, text);
                                let block = _mm_xor_si128(_mm_shuffle_epi8(block, load(&REVERSE)), state);
                                sum.add(lowest(block), lowest(load(&*powers(key, power).cast())));
                                state = _mm_setzero_si128();
                                power -= 1;
                                left = left.saturating_sub(16);
                            }
                        }
                    }
                }
            }
            let lengths = job.lengths();
            let lengths = _mm_xor_si128(_mm_set_epi64x(lengths >> 32, lengths & 0xffff_ffff), state);
            sum.add(lowest(lengths), lowest(load(&key.powers[POWERS - 1])));
            _mm_xor_si128(_mm_shuffle_epi8(sum.reduce(), load(&REVERSE)), mask)
        }

        /// The powers of H from that exponent down.
        #[target_feature(enable = $features)]
        #[inline]
        fn powers(key: &Key, exponent: usize) -> *const u8 {
            std::ptr::from_ref(key).cast::<u128>().wrapping_add(POWERS - exponent).cast()
        }

        /// A sum of products before their reduction, as many side by side as a vector has lanes.
        struct Sum {
            low: Vector,
            middle: Vector,
            high: Vector,
        }

        impl Sum {
            #[target_feature(enable = $features)]
            #[inline]
            fn none() -> Self {
                let zero = lowest(_mm_setzero_si128());
                Self { low: zero, middle: zero, high: zero }
            }

            #[target_feature(enable = $features)]
            #[inline]
            fn add(&mut self, blocks: Vector, powers: Vector) {
                self.low = xor(self.low, multiply::<0x00>(blocks, powers));
                let crossed = xor(multiply::<0x01>(blocks, powers), multiply::<0x10>(blocks, powers));
                self.middle = xor(self.middle, crossed);
                self.high = xor(self.high, multiply::<0x11>(blocks, powers));
            }

            #[target_feature(enable = $features)]
            #[inline]
            fn reduce(self) -> __m128i {
                Product { low: total(self.low), middle: total(self.middle), high: total(self.high) }.reduce()
            }
        }
    };
}
pub(super) use engine;

/// Which of sixteen octets are text, if so many are.
pub(super) static TEXT_MASKS: [u128; 17] = {
    let mut masks = [0; 17];
    let mut len = 1;
    while len <= 16 {
        masks[len] = u128::MAX >> (128 - 8 * len);
        len += 1;
    }
    masks
};

/// Turns the last word of a block around: counters are big-endian in a block.
pub(super) const COUNTER_ORDER: u128 = 0x0c0d_0e0f_0b0a_0908_0706_0504_0302_0100;
