//! Known answers that an engine must give before it is trusted, at start, in every process.
//!
//! The tags were computed by OpenSSL 3 (through Python's `cryptography`): key octets 00, 01, …; nonce a0, a1, …;
//! AAD 40, 41, … (8 octets for even rows, 12 for odd ones); octet j of a text of n octets is 7j + n modulo 256.
//! The lengths cross every block, vector and loop boundary of the engines, and all algorithms share a batch.

use crate::{Aes, Algorithm, Engine, Hmac, Key, Packet};

const NONCE: [u8; 12] = [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab];

const AES_128: [(usize, u128); 14] = [
    (0, 0x193d_fc77_f939_10a7_afcd_9e78_ff67_cb3b),
    (1, 0xde43_1777_70bb_95a5_5625_2956_36f6_3f5d),
    (16, 0x1460_7d61_38ba_73d9_65ea_af9a_51d6_54ea),
    (44, 0xdda2_da5d_65f4_b03b_305f_d4b6_81f8_20a9),
    (64, 0xf88b_ca9b_2591_2005_5421_0f31_9a71_93b7),
    (65, 0x6315_d908_5a19_0611_acf7_8a3d_dbd7_0715),
    (128, 0xc894_e485_fab1_ccfa_70d0_dc36_9447_751d),
    (200, 0xe740_2077_723e_521f_1141_b82b_56c4_db4b),
    (256, 0x9dce_5c6d_500e_cc9f_b6a2_f814_9235_ea17),
    (300, 0x9dd8_153b_e38b_f1e2_6f43_f69f_e31b_7719),
    (511, 0x4387_7e28_9bf0_4435_c1cd_5a4c_0cea_7da3),
    (1024, 0x03a1_dcae_5734_ad91_ad92_1fa7_49e4_a67b),
    (1424, 0x229b_7f32_391f_8df1_c7b9_b4e7_d4bf_435e),
    (2053, 0xb440_abdc_e24a_3a4e_63ba_c594_fc73_1864),
];

const AES_256: [(usize, u128); 14] = [
    (0, 0x2c09_32c9_8468_c9d3_0ea5_141e_15c3_eaea),
    (1, 0x7848_2f98_dde8_5473_1f90_7233_06ed_9979),
    (16, 0xb3a6_9575_07e8_aa07_a9bf_29fa_94fb_17d7),
    (44, 0x5f3b_3bd2_7ab3_baf0_1627_068c_1af7_9203),
    (64, 0x3a13_47c4_deb7_2943_c441_6a3b_f97d_5f6d),
    (65, 0x0ebf_fa19_cb00_5bea_d9fc_ab7b_57db_0ac2),
    (128, 0x0485_0dd6_e68c_f1fb_2821_0e27_eba9_312b),
    (200, 0x9b74_8ed9_9915_04eb_43bc_46ba_f479_cdc9),
    (256, 0xe713_ec7c_be7d_33f4_d76e_bf60_2415_2dab),
    (300, 0x3d86_fce9_d4e5_412d_5269_3e95_c9b5_5e98),
    (511, 0x25d0_50c0_bff9_8b1a_2e6a_ea7e_743c_3ddc),
    (1024, 0xbe17_f2cd_6c56_4581_3fa2_39b9_d42a_a193),
    (1424, 0xae7b_d7b0_38e2_512d_57e4_b404_d070_2fb8),
    (2053, 0x0a29_bb6e_389b_aba4_98cf_7cd4_4124_271a),
];

/// The algorithms of interoperability, between them every cipher, key length and hash: the first eight octets of the
/// tags for texts of 64 octets with 8 octets of AAD, and of 1424 with 12. Computed in the same way; the IV is what the
/// nonce ends with, that of AES-CBC the nonce and four zeros, encrypted.
const INTEROP: [(Algorithm, [u64; 2]); 12] = [
    (Algorithm::Aes128Gcm12, [0xf88b_ca9b_2591_2005, 0xb147_c27f_3514_7f41]),
    (Algorithm::Aes256Gcm8, [0x3a13_47c4_deb7_2943, 0xaf88_9529_ffad_ff7c]),
    (Algorithm::Aes256Gmac, [0x9bc6_b5d8_5ed7_c1e4, 0x6624_88dc_2192_5043]),
    (Algorithm::ChaCha20Poly1305, [0xa154_bff4_80be_afe0, 0x600c_a7e8_762a_a61a]),
    (Algorithm::AesCbc(Aes::Aes128, Hmac::Sha256), [0x0cdc_92aa_546a_8cff, 0x7382_731d_2b83_1d67]),
    (Algorithm::AesCbc(Aes::Aes192, Hmac::Sha384), [0xc73b_0b24_e38e_addb, 0x5edc_41dc_4585_e447]),
    (Algorithm::AesCbc(Aes::Aes256, Hmac::Sha512), [0x720f_8c91_9867_448f, 0x1087_a022_946c_47fa]),
    (Algorithm::AesCbc(Aes::Aes256, Hmac::Sha1), [0x2736_6aee_7ada_03ea, 0xdb47_d0d6_ebd8_237d]),
    (Algorithm::AesCtr(Aes::Aes128, Hmac::Sha512), [0xf27a_71cf_2490_5dce, 0x07e3_99ca_c14e_abf7]),
    (Algorithm::AesCtr(Aes::Aes192, Hmac::Sha256), [0x0f68_8795_de0a_146c, 0xba80_194c_90ef_b30a]),
    (Algorithm::AesCtr(Aes::Aes256, Hmac::Sha256), [0x9b26_c996_4dff_cfc5, 0xc78d_b3b0_f386_6fb0]),
    (Algorithm::Null(Hmac::Sha384), [0x2806_40c3_b2c0_47dc, 0xb0ab_2506_b6f1_cf21]),
];

/// How often each row is in the batch: engines may work on four of a kind together, on what is left otherwise, and in yet
/// another way where there is much of a kind.
const TIMES: usize = if cfg!(miri) { 1 } else { 9 };

/// Seals every row in one batch and compares the tags; opens them again; and sees one packet with a wrong tag fail
/// alone.
pub(crate) fn passes(engine: Engine) -> bool {
    let Some(keys) = keys(engine) else { return false };
    let Some(rows) = rows(&keys) else { return false };

    let mut buffers: Vec<Vec<u8>> = rows.iter().map(Row::buffer).collect();
    engine.seal(&mut batch(&rows, &mut buffers));
    if !rows.iter().zip(&buffers).all(|(row, buffer)| row.is_sealed(buffer)) {
        return false;
    }
    let wrong = rows.len() / 2;
    if let Some(octet) = buffers.get_mut(wrong).and_then(|buffer| buffer.last_mut()) {
        *octet ^= 0x80;
    }
    let mut packets = batch(&rows, &mut buffers);
    engine.open(&mut packets);
    let verdicts: Vec<bool> = packets.iter().map(|packet| packet.authentic).collect();
    rows.iter().zip(&buffers).zip(verdicts).enumerate().all(|(at, ((row, buffer), authentic))| {
        authentic == (at != wrong)
            && if authentic {
                buffer.iter().copied().skip(row.key.algorithm().iv_len()).take(row.len).eq(row.text())
            } else {
                buffer.iter().all(|octet| *octet == 0)
            }
    })
}

/// One key of every algorithm, those with engines first.
fn keys(engine: Engine) -> Option<Vec<Key>> {
    let secret: [u8; 96] = std::array::from_fn(|at| at as u8);
    let interop = INTEROP.iter().map(|(algorithm, _)| *algorithm);
    [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm]
        .into_iter()
        .chain(interop)
        .map(|algorithm| engine.key(algorithm, secret.get(..algorithm.key_len())?))
        .collect()
}

fn rows(keys: &[Key]) -> Option<Vec<Row<'_>>> {
    let (engines, interop) = keys.split_first_chunk::<2>()?;
    let of_engines = [AES_128, AES_256].into_iter().zip(engines).flat_map(|(answers, key)| {
        let rows = answers.into_iter().enumerate();
        rows.map(move |(at, (len, tag))| Row {
            key,
            long_aad: at % 2 == 1,
            len,
            tag: tag.to_be_bytes().to_vec(),
        })
    });
    let of_interop = INTEROP.iter().zip(interop).flat_map(|((_, tags), key)| {
        let rows = [(64, false), (1424, true)].into_iter().zip(tags);
        rows.map(move |((len, long_aad), tag)| Row { key, long_aad, len, tag: tag.to_be_bytes().to_vec() })
    });
    // In turns, so that no engine sees only what it has code for.
    let mut of_interop = of_interop.fuse();
    let mixed = of_engines
        .flat_map(|row| std::iter::repeat_n(Some(row), TIMES).chain([of_interop.next()]).collect::<Vec<_>>())
        .flatten()
        .collect();
    Some(mixed)
}

#[derive(Clone)]
struct Row<'a> {
    key: &'a Key,
    long_aad: bool,
    len: usize,
    /// As much of the tag as is known.
    tag: Vec<u8>,
}

impl Row<'_> {
    fn text(&self) -> impl Iterator<Item = u8> {
        (0..self.len).map(|at| (7 * at + self.len) as u8)
    }

    /// IV, text, and room for the tag.
    fn buffer(&self) -> Vec<u8> {
        let algorithm = self.key.algorithm();
        let iv = NONCE.into_iter().skip(NONCE.len() - algorithm.iv_len().min(8)).chain([0; 8]);
        iv.take(algorithm.iv_len()).chain(self.text()).chain(vec![0; algorithm.tag_len()]).collect()
    }

    fn is_sealed(&self, buffer: &[u8]) -> bool {
        let tag = buffer.len().checked_sub(self.key.algorithm().tag_len()).and_then(|at| buffer.get(at..));
        tag.is_some_and(|tag| tag.starts_with(&self.tag))
    }
}

fn batch<'a>(rows: &[Row<'a>], buffers: &'a mut [Vec<u8>]) -> Vec<Packet<'a>> {
    rows.iter()
        .zip(buffers)
        .map(|(row, buffer)| Packet {
            key: row.key,
            nonce: NONCE,
            aad: std::array::from_fn(|at| 0x40 + at as u8),
            aad_len: if row.long_aad { 12 } else { 8 },
            buffer,
            authentic: false,
        })
        .collect()
}
