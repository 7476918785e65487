//! The MODP groups of RFC 3526: modular exponentiation in constant time, with generator 2.

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use zeroize::Zeroizing;

/// A group: an odd prime p, and 2, which generates its subgroup of prime order (p - 1) / 2.
pub(super) struct Group {
    /// Octets of the prime, and of every public value and shared secret.
    pub(super) len: usize,
    prime: &'static str,
}

/// Octets of a private exponent: twice the strength of the larger group (RFC 3526 §8).
pub(super) const EXPONENT_LEN: usize = 48;

pub(super) const MODP_2048: Group = Group { len: 256, prime: PRIME_2048 };
pub(super) const MODP_3072: Group = Group { len: 384, prime: PRIME_3072 };

impl Group {
    /// `2^exponent mod p`.
    pub(super) fn public(&self, exponent: &[u8; EXPONENT_LEN]) -> Option<Vec<u8>> {
        let mut two = vec![0; self.len];
        *two.last_mut()? = 2;
        self.power(&two, exponent).map(|power| power.to_vec())
    }

    /// `base^exponent mod p`, padded to the prime's length; `None` unless `1 < base < p - 1` (RFC 6989 §2.1).
    pub(super) fn power(&self, base: &[u8], exponent: &[u8; EXPONENT_LEN]) -> Option<Zeroizing<Vec<u8>>> {
        let bits = u32::try_from(self.len * 8).ok()?;
        let prime = Option::<BoxedUint>::from(BoxedUint::from_be_hex(self.prime, bits))?;
        let one = BoxedUint::one_with_precision(bits);
        let base = BoxedUint::from_be_slice(base, bits).ok()?;
        if base <= one || base >= prime.wrapping_sub(&one) {
            return None;
        }
        let params = BoxedMontyParams::new_vartime(Option::<Odd<BoxedUint>>::from(Odd::new(prime))?);
        let exponent = Zeroizing::new(BoxedUint::from_be_slice(exponent, EXPONENT_LEN as u32 * 8).ok()?);
        let power = Zeroizing::new(BoxedMontyForm::new(base, &params).pow(&exponent));
        let power = Zeroizing::new(power.retrieve());
        Some(Zeroizing::new(power.to_be_bytes().to_vec()))
    }
}

/// RFC 3526 §3: 2^2048 - 2^1984 - 1 + 2^64 * (floor(2^1918 pi) + 124476).
const PRIME_2048: &str = "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
     EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
     83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
     15728E5A8AACAA68FFFFFFFFFFFFFFFF";

/// RFC 3526 §4: 2^3072 - 2^3008 - 1 + 2^64 * (floor(2^2942 pi) + 1690314).
const PRIME_3072: &str = "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
     EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
     83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
     15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
     ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D87602733EC86A64521F2B18177B200C\
     BBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF";
