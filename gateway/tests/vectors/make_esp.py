#!/usr/bin/python3
"""Writes esp_scapy.json: ESP packets made by scapy, an implementation that shares nothing with ours.

Every combination of inner and outer address family, raw and UDP, ESN on and off, AES-128 and AES-256 with GCM; and
four of them for every other algorithm. The IV is made of the sequence number and the fields that a sender is free to choose are chosen as Portcullis does, so that its packets
must equal these octet for octet. The UDP checksum is zero throughout (RFC 3948 section 2.1); over IPv6 Portcullis
writes one after sealing, and the test checks it separately.

Run it by hand: /usr/bin/python3 make_esp.py > esp_scapy.json
"""
import itertools
import json
import pathlib
import random
import sys

from scapy.all import IP, UDP, IPv6, Raw, raw
from scapy.layers.ipsec import ESP

sys.path.append(str(pathlib.Path(__file__).parent.parent))
import scapy_algorithms as algorithms

INNER = {
    4: lambda tos, df: IP(src="10.1.0.5", dst="10.2.0.9", tos=tos, ttl=17, id=77, flags="DF" if df else 0),
    6: lambda tos, df: IPv6(src="2001:db8:1::5", dst="2001:db8:2::9", tc=tos, hlim=17),
}
OUTER = {4: ("192.0.2.1", "198.51.100.2"), 6: ("2001:db8:a::1", "2001:db8:b::2")}

rng = random.Random(4106)
octets = lambda n: bytes(rng.randrange(256) for _ in range(n))

KEYMAT = {"gcm16": 4, "gcm12": 4, "gcm8": 4, "gmac": 4, "ctr": 4, "": 0}


def keymat_len(name):
    cipher, _, integrity = name.partition("-")
    hmac = algorithms.HMACS[integrity][1] if integrity else 0
    if cipher in ("null", "chacha20poly1305"):
        return (0 if cipher == "null" else 36) + hmac
    return int(cipher[3:6]) // 8 + KEYMAT[cipher[6:]] + hmac


def case(inner, outer, udp, esn, name):
    spi = rng.randrange(256, 1 << 32)
    sequence = rng.randrange(1, 1 << 40) if esn else rng.randrange(1, 1 << 32)
    keymat, tos, df = octets(keymat_len(name)), rng.randrange(256), rng.random() < 0.5
    packet = INNER[inner](tos, df) / UDP(sport=1000, dport=2000) / Raw(octets(rng.randrange(0, 200)))
    local, remote = OUTER[outer]
    if outer == 4:
        tunnel = IP(src=local, dst=remote, tos=tos, ttl=64, id=sequence & 0xFFFF,
                    flags="DF" if inner == 6 or df else 0)
    else:
        tunnel = IPv6(src=local, dst=remote, tc=tos, hlim=64, fl=spi & 0xFFFFF)
    sa = algorithms.association(
        name, keymat, spi, tunnel, UDP(sport=4500, dport=61234) if udp else None, esn)
    algorithms.upper(sa, sequence >> 32)
    sealed = sa.encrypt(packet, seq_num=sequence & 0xFFFFFFFF, iv=algorithms.iv(sa, sequence))
    if udp:
        # scapy 2.5 fixes the length before it appends the ESP packet.
        sealed[UDP].len = 8 + len(sealed[ESP])
    return {
        "name": f"inner v{inner}, outer v{outer}, {'udp' if udp else 'raw'}, {'esn' if esn else 'no esn'}, {name}",
        "algorithm": name,
        "spi": spi, "sequence": sequence, "esn": esn, "keymat": keymat.hex(),
        "local": local, "remote": remote, "udp": [4500, 61234] if udp else None,
        "inner": raw(packet).hex(), "outer": raw(sealed).hex(),
    }


cases = [
    case(inner, outer, udp, esn, name)
    for inner, outer, udp, esn, name in itertools.product(
        (4, 6), (4, 6), (False, True), (False, True), ("aes128gcm16", "aes256gcm16"))
]
SHAPES = ((4, 4, False, False), (6, 6, True, True), (4, 6, True, False), (6, 4, False, True))
AEADS = ["aes128gcm12", "aes256gcm12", "aes128gcm8", "aes256gcm8", "aes128gmac", "aes256gmac", "chacha20poly1305"]
CIPHERS = ["aes128", "aes192", "aes256", "aes128ctr", "aes192ctr", "aes256ctr", "null"]
OTHERS = AEADS + [f"{cipher}-{hmac}" for cipher in CIPHERS for hmac in algorithms.HMACS]
cases += [case(*shape, name) for name in OTHERS for shape in SHAPES]
print("[" + ",\n".join(map(json.dumps, cases)) + "]")
