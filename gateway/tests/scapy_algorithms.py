"""ESP security associations of scapy by strongSwan's names of algorithms, and what scapy 2.5 lacks: an ICV over the
upper half of the sequence number for ESN with an HMAC (RFC 4303 section 2.2.1), AES-GCM with a shortened ICV, and
AES-GMAC (RFC 4543). The cryptography is OpenSSL's."""
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy.compat import raw
from scapy.layers.ipsec import AUTH_ALGOS, CRYPT_ALGOS, ESP, CryptAlgo, SecurityAssociation

HMACS = {"sha1": ("HMAC-SHA1-96", 20), "sha256": ("SHA2-256-128", 32), "sha384": ("SHA2-384-192", 48),
         "sha512": ("SHA2-512-256", 64)}
ICVS = {"gcm16": None, "gcm12": 12, "gcm8": 8, "gmac": None}
_salted = lambda sa, iv, **_: sa.crypt_salt + iv


class _Gmac(CryptAlgo):
    """IV and text are part of the additional data, and nothing is encrypted."""

    def _tag(self, sa, esp, key, esn_en, esn, iv_and_text):
        head = struct.pack("!LLL", esp.spi, esn, esp.seq) if esn_en else struct.pack("!LL", esp.spi, esp.seq)
        return AESGCM(key).encrypt(sa.crypt_salt + iv_and_text[:8], b"", head + iv_and_text)

    def encrypt(self, sa, esp, key, icv_size=None, esn_en=False, esn=0):
        sealed = super().encrypt(sa, esp, key)
        sealed.data += self._tag(sa, esp, key, esn_en, esn, sealed.data)
        return sealed

    def decrypt(self, sa, esp, key, icv_size=None, esn_en=False, esn=0):
        assert self._tag(sa, esp, key, esn_en, esn, esp.data[:-16]) == esp.data[-16:], "GMAC"
        return super().decrypt(sa, esp, key, icv_size=16)


class _EsnHmac:
    """An HMAC that covers what the packet does not have."""

    def __init__(self, algo):
        self.algo, self.icv_size, self.upper = algo, algo.icv_size, 0

    def check_key(self, key):
        self.algo.check_key(key)

    def _icv(self, octets, key):
        mac = self.algo.new_mac(key)
        mac.update(octets + struct.pack("!L", self.upper))
        return mac.finalize()[:self.icv_size]

    def sign(self, pkt, key, **_):
        pkt[ESP].data += self._icv(raw(pkt[ESP]), key)
        return pkt

    def verify(self, pkt, key, **_):
        octets = raw(pkt)
        assert octets[-self.icv_size:] == self._icv(octets[:-self.icv_size], key), "HMAC"


CRYPT_ALGOS["AES-GCM-SHORT"] = CryptAlgo("AES-GCM-SHORT", cipher=algorithms.AES, mode=modes.GCM, salt_size=4,
                                         block_size=1, iv_size=8, icv_size=16, format_mode_iv=_salted)
CRYPT_ALGOS["AES-GMAC"] = _Gmac("AES-GMAC", cipher=None, mode=None, salt_size=4, block_size=1, iv_size=8,
                                icv_size=16)


def association(name, keymat, spi, tunnel, udp, esn):
    """An SA of that algorithm. `upper(sa, n)` must set the sequence number's upper half before each packet."""
    cipher, _, integrity = name.partition("-")
    auth, auth_key_len = HMACS.get(integrity, ("NULL", 0))
    mode = cipher.removeprefix("aes")[3:]
    icv = None
    if cipher == "chacha20poly1305":
        crypt = "CHACHA20-POLY1305"
    elif cipher == "null":
        crypt = "NULL"
    elif mode in ICVS:
        crypt, icv = {"gcm16": "AES-GCM", "gmac": "AES-GMAC"}.get(mode, "AES-GCM-SHORT"), ICVS[mode]
    else:
        crypt = {"": "AES-CBC", "ctr": "AES-CTR"}[mode]
    split = len(keymat) - auth_key_len
    sa = SecurityAssociation(ESP, spi=spi, crypt_algo=crypt, crypt_key=keymat[:split], crypt_icv_size=icv,
                             auth_algo=auth, auth_key=keymat[split:], tunnel_header=tunnel, nat_t_header=udp,
                             esn_en=esn)
    if esn and auth_key_len:
        sa.auth_algo = _EsnHmac(AUTH_ALGOS[auth])
    return sa


def upper(sa, number):
    """Sets the upper half of the sequence number."""
    sa.esn = number
    if isinstance(sa.auth_algo, _EsnHmac):
        sa.auth_algo.upper = number


def iv(sa, sequence):
    """The IV that Portcullis would take: the sequence number; with AES-CBC a block made of it, encrypted."""
    if sa.crypt_algo.name == "AES-CBC":
        encryptor = Cipher(algorithms.AES(sa.crypt_key), modes.ECB()).encryptor()
        return encryptor.update(struct.pack("!LQL", 0, sequence, 0))
    return struct.pack("!Q", sequence)[:sa.crypt_algo.iv_size]
