//! Known answers that an engine must give before it is trusted, at start, in every process.
//!
//! The tags were computed by OpenSSL 3 (through Python's `cryptography`): key octets 00, 01, …; nonce a0, a1, …;
//! AAD 40, 41, … (8 octets for even rows, 12 for odd ones); octet j of a text of n octets is 7j + n modulo 256.
//! The lengths cross every block, vector and loop boundary of the engines, and both algorithms share a batch.

use crate::{Algorithm, Engine, Key, Packet, TAG_LEN};

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

/// How often each row is in the batch: engines may work on four of a kind together, and on what is left otherwise.
const TIMES: usize = if cfg!(miri) { 1 } else { 5 };

/// Seals every row in one batch and compares the tags; opens them again; and sees one packet with a wrong tag fail
/// alone.
pub(crate) fn passes(engine: Engine) -> bool {
    let secret: [u8; 32] = std::array::from_fn(|at| at as u8);
    let keys = secret.first_chunk::<16>().and_then(|short| {
        Some((engine.key(Algorithm::Aes128Gcm, short)?, engine.key(Algorithm::Aes256Gcm, &secret)?))
    });
    let Some((short, long)) = keys else { return false };
    let rows: Vec<Row<'_>> = [(AES_128, &short), (AES_256, &long)]
        .into_iter()
        .flat_map(|(answers, key)| {
            answers.into_iter().enumerate().flat_map(move |(at, (len, tag))| {
                std::iter::repeat_n(Row { key, long_aad: at % 2 == 1, len, tag }, TIMES)
            })
        })
        .collect();

    let mut buffers: Vec<Vec<u8>> = rows.iter().map(|row| row.text().chain([0; TAG_LEN]).collect()).collect();
    engine.seal(&mut batch(&rows, &mut buffers));
    if !rows.iter().zip(&buffers).all(|(row, buffer)| buffer.last_chunk() == Some(&row.tag.to_be_bytes())) {
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
        let (text, _) = buffer.split_at(row.len);
        authentic == (at != wrong)
            && if authentic {
                text.iter().copied().eq(row.text())
            } else {
                buffer.iter().all(|octet| *octet == 0)
            }
    })
}

#[derive(Clone)]
struct Row<'a> {
    key: &'a Key,
    long_aad: bool,
    len: usize,
    tag: u128,
}

impl Row<'_> {
    fn text(&self) -> impl Iterator<Item = u8> {
        (0..self.len).map(|at| (7 * at + self.len) as u8)
    }
}

fn batch<'a>(rows: &[Row<'a>], buffers: &'a mut [Vec<u8>]) -> Vec<Packet<'a>> {
    rows.iter()
        .zip(buffers)
        .map(|(row, buffer)| Packet {
            key: row.key,
            nonce: std::array::from_fn(|at| 0xa0 + at as u8),
            aad: std::array::from_fn(|at| 0x40 + at as u8),
            aad_len: if row.long_aad { 12 } else { 8 },
            buffer,
            authentic: false,
        })
        .collect()
}
