//! ESP's encryption and integrity keywords, which together name an algorithm of the data plane: an AEAD is whole by
//! itself, every other cipher takes each integrity algorithm that stands beside it.

use portcullis_ipsec::{Cipher, EspAlgorithm, Integrity};

use super::ProposalError;

/// The first keyword of each meaning is the one that is printed.
const CIPHERS: &[(&str, Cipher, usize)] = &[
    ("aes128gcm16", Cipher::AesGcm16, 16),
    ("aes128gcm", Cipher::AesGcm16, 16),
    ("aes128gcm128", Cipher::AesGcm16, 16),
    ("aes256gcm16", Cipher::AesGcm16, 32),
    ("aes256gcm", Cipher::AesGcm16, 32),
    ("aes256gcm128", Cipher::AesGcm16, 32),
    ("aes128gcm12", Cipher::AesGcm12, 16),
    ("aes128gcm96", Cipher::AesGcm12, 16),
    ("aes256gcm12", Cipher::AesGcm12, 32),
    ("aes256gcm96", Cipher::AesGcm12, 32),
    ("aes128gcm8", Cipher::AesGcm8, 16),
    ("aes128gcm64", Cipher::AesGcm8, 16),
    ("aes256gcm8", Cipher::AesGcm8, 32),
    ("aes256gcm64", Cipher::AesGcm8, 32),
    ("aes128gmac", Cipher::AesGmac, 16),
    ("aes256gmac", Cipher::AesGmac, 32),
    ("chacha20poly1305", Cipher::ChaCha20Poly1305, 32),
    ("aes128", Cipher::AesCbc, 16),
    ("aes", Cipher::AesCbc, 16),
    ("aes192", Cipher::AesCbc, 24),
    ("aes256", Cipher::AesCbc, 32),
    ("aes128ctr", Cipher::AesCtr, 16),
    ("aes192ctr", Cipher::AesCtr, 24),
    ("aes256ctr", Cipher::AesCtr, 32),
    ("null", Cipher::Null, 0),
];

const INTEGRITIES: &[(&str, Integrity)] = &[
    ("sha256", Integrity::HmacSha256),
    ("sha2_256", Integrity::HmacSha256),
    ("sha384", Integrity::HmacSha384),
    ("sha2_384", Integrity::HmacSha384),
    ("sha512", Integrity::HmacSha512),
    ("sha2_512", Integrity::HmacSha512),
    ("sha1", Integrity::HmacSha1),
    ("sha", Integrity::HmacSha1),
];

/// The keywords of one proposal, as they are found.
#[derive(Default)]
pub(super) struct Words {
    ciphers: Vec<(Cipher, usize)>,
    integrities: Vec<Integrity>,
}

impl Words {
    /// Takes a keyword, if it is one of these.
    pub(super) fn take(&mut self, word: &str) -> bool {
        if let Some((_, cipher, key_len)) = CIPHERS.iter().find(|(name, ..)| *name == word) {
            super::notation::once(&mut self.ciphers, (*cipher, *key_len));
            return true;
        }
        let integrity = INTEGRITIES.iter().find(|(name, _)| *name == word);
        if let Some((_, integrity)) = integrity {
            super::notation::once(&mut self.integrities, *integrity);
        }
        integrity.is_some()
    }

    /// The algorithms that they name, the first cipher first. `text` is the whole proposal.
    pub(super) fn algorithms(self, text: &str) -> Result<Vec<EspAlgorithm>, ProposalError> {
        let wrong = |problem: String| ProposalError { found: text.to_owned(), problem };
        let Self { ciphers, integrities } = self;
        let aead = |cipher: Cipher| !matches!(cipher, Cipher::AesCbc | Cipher::AesCtr | Cipher::Null);
        if ciphers.is_empty() {
            return Err(wrong(format!(
                "lacks an encryption algorithm; complete would be `aes256gcm16-{text}`"
            )));
        }
        let aeads = ciphers.iter().filter(|(cipher, _)| aead(*cipher)).count();
        if aeads == ciphers.len() {
            if !integrities.is_empty() {
                return Err(wrong(
                    "has an integrity algorithm beside an AEAD, which brings its own".to_owned(),
                ));
            }
        } else if aeads > 0 {
            return Err(wrong(
                "has AEADs beside ciphers that need an integrity algorithm: make it two proposals (RFC 7296 §3.3)"
                    .to_owned(),
            ));
        } else if integrities.is_empty() {
            return Err(wrong(format!("lacks an integrity algorithm; complete would be `{text}-sha256`")));
        }
        let mut found = Vec::new();
        for (cipher, key_len) in ciphers {
            let choices: Vec<Option<Integrity>> = match aead(cipher) {
                true => vec![None],
                false => integrities.iter().copied().map(Some).collect(),
            };
            for integrity in choices {
                let algorithm = EspAlgorithm::from_parts(cipher, key_len, integrity)
                    .ok_or_else(|| wrong("names what the data plane does not have".to_owned()))?;
                found.push(algorithm);
            }
        }
        Ok(found)
    }
}

/// The keywords of these algorithms: the ciphers, then the integrity algorithms.
pub(super) fn words(algorithms: &[EspAlgorithm]) -> Vec<&'static str> {
    let mut words = Vec::new();
    for algorithm in algorithms {
        let cipher = (algorithm.cipher(), algorithm.key_len());
        if let Some((name, ..)) = CIPHERS.iter().find(|(_, found, len)| (*found, *len) == cipher) {
            super::notation::once(&mut words, *name);
        }
    }
    for integrity in algorithms.iter().filter_map(|algorithm| algorithm.integrity()) {
        if let Some((name, _)) = INTEGRITIES.iter().find(|(_, found)| *found == integrity) {
            super::notation::once(&mut words, *name);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn esp(text: &str) -> EspProposal {
        text.parse().unwrap()
    }

    #[test]
    fn every_algorithm_of_the_data_plane_has_a_name_that_leads_back_to_it() {
        for algorithm in EspAlgorithm::ALL {
            assert_eq!(esp(algorithm.name()).encr, [*algorithm]);
            assert_eq!(esp(algorithm.name()).to_string(), format!("{}-noesn", algorithm.name()));
        }
    }

    #[test]
    fn ciphers_go_with_every_integrity_algorithm_beside_them() {
        let proposal = esp("aes256-aes128ctr-sha512-sha256-x25519-esn");
        let names: Vec<_> = proposal.encr.iter().map(|algorithm| algorithm.name()).collect();
        assert_eq!(names, ["aes256-sha512", "aes256-sha256", "aes128ctr-sha512", "aes128ctr-sha256"]);
        assert_eq!(proposal.to_string(), "aes256-aes128ctr-sha512-sha256-x25519-esn");
        let wire = proposal.offer(1, Spi::new(4096).unwrap(), true);
        let of = |kind: u8| wire.transforms.iter().filter(move |transform| transform.transform_type == kind);
        let encr: Vec<_> = of(transform_type::ENCR).map(|encr| (encr.id, encr.key_length)).collect();
        assert_eq!(encr, [(12, Some(256)), (13, Some(128))], "IANA's ENCR_AES_CBC and ENCR_AES_CTR");
        let integ: Vec<_> = of(transform_type::INTEG).map(|integ| (integ.id, integ.key_length)).collect();
        assert_eq!(integ, [(14, None), (12, None)], "IANA's AUTH_HMAC_SHA2_512_256 and _256_128");
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_what_would() {
        for (text, problem) in [
            ("aes256", "lacks an integrity algorithm; complete would be `aes256-sha256`"),
            ("sha256", "lacks an encryption algorithm"),
            ("aes256gcm16-sha256", "beside an AEAD"),
            ("aes256gcm16-aes256-sha256", "make it two proposals"),
            ("aes256-aesxcbc", "`aesxcbc` is known to strongSwan, but not supported"),
            ("aes192gcm16", "`aes192gcm16` is known to strongSwan, but not supported"),
        ] {
            let error = text.parse::<EspProposal>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn a_cipher_and_its_integrity_algorithm_are_chosen_together() {
        let spi = Spi::new(4096).unwrap();
        let offered =
            [esp("aes256-sha384-sha512").offer(1, spi, false), esp("chacha20poly1305").offer(2, spi, false)];
        let chosen = |ours: &str| select_esp(&[esp(ours)], &offered, false);
        assert_eq!(chosen("aes256-sha256-sha512").unwrap().0.encr, EspAlgorithm::Aes256CbcSha512);
        assert_eq!(chosen("chacha20poly1305").unwrap().1, 2);
        let miss = chosen("aes256-sha256").unwrap_err().to_string();
        assert_eq!(miss, "no integrity algorithm in common: offered sha384, sha512, configured sha256");
        let answer = chosen("aes256-sha512").unwrap().0.answer(1, spi);
        assert_eq!(
            accepted_esp(&[esp("aes256-sha384-sha512")], &[answer], false).unwrap().0.encr.name(),
            "aes256-sha512"
        );
    }

    #[test]
    fn an_aead_with_an_integrity_transform_is_not_taken_for_one_without() {
        let spi = Spi::new(4096).unwrap();
        let mut offered = esp("aes256gcm16").offer(1, spi, false);
        offered.transforms.push(transform(transform_type::INTEG, 12));
        assert!(select_esp(&[esp("aes256gcm16")], &[offered], false).is_err());
        let mut bare = esp("aes256-sha256").offer(1, spi, false);
        bare.transforms.retain(|transform| transform.transform_type != transform_type::INTEG);
        assert!(select_esp(&[esp("aes256-sha256")], &[bare], false).is_err(), "a cipher without integrity");
    }
}
