#!/usr/bin/python3
"""An ESP peer made of scapy, spoken to over stdin and stdout, one line each way per packet.

The first line is a JSON list of SAs. After it come lines of blank-separated words:
    open SA SEQUENCE_HIGH OUTER     the inner packet is answered, or in transport mode the packet without ESP
    seal SA SEQUENCE INNER          the outer packet is answered
SA is an index into the list, packets are hexadecimal from their IP header on. What fails is answered with
"error" and a reason. Ends at the end of its input.
"""
import json
import os
import struct
import sys

from scapy.all import IP, UDP, IPv6, raw
from scapy.layers.ipsec import ESP

import scapy_algorithms as algorithms


def association(sa, upper):
    family = IPv6 if ":" in sa["src"] else IP
    made = algorithms.association(
        sa["algorithm"], bytes.fromhex(sa["keymat"]), sa["spi"],
        None if sa["transport"] else family(src=sa["src"], dst=sa["dst"]),
        UDP(sport=sa["udp"][0], dport=sa["udp"][1]) if sa["udp"] and not sa["transport"] else None, sa["esn"])
    algorithms.upper(made, upper)
    return made


def ip(octets):
    return IP(octets) if octets[0] >> 4 == 4 else IPv6(octets)


def check(sa, packet):
    """What a receiver would insist on besides the ICV."""
    assert (packet.src, packet.dst) == (sa["src"], sa["dst"]), "outer addresses"
    assert (UDP in packet) == bool(sa["udp"]), "encapsulation"
    if sa["udp"]:
        udp = packet[UDP]
        assert [udp.sport, udp.dport] == sa["udp"], "ports"
        assert udp.len == len(raw(udp)), "UDP length"
        if packet.version == 6:
            wanted, copy = udp.chksum, packet.copy()
            del copy[UDP].chksum
            assert wanted == copy.__class__(raw(copy))[UDP].chksum, "UDP checksum"
    if packet.version == 4:
        wanted, copy = packet.chksum, packet.copy()
        del copy.chksum
        assert wanted == copy.__class__(raw(copy)).chksum, "header checksum"


def with_udp(sa, packet, udp):
    """The packet with a UDP header in front of its ESP header, or without it: what scapy lacks in transport mode."""
    octets = bytearray(raw(packet))
    named_at, at = (9, (octets[0] & 15) * 4) if octets[0] >> 4 == 4 else (6, 40)
    while octets[0] >> 4 == 6 and octets[named_at] in (0, 43, 60):
        named_at, at = at, at + (octets[at + 1] + 1) * 8
    octets[named_at] = 17 if udp else 50
    octets[at:at if udp else at + 8] = struct.pack("!HHHH", *sa["udp"], 8 + len(octets) - at, 0) if udp else b""
    if octets[0] >> 4 == 4:
        octets[2:4] = struct.pack("!H", len(octets))
        whole = IP(bytes(octets))
        del whole.chksum
        return IP(raw(whole))
    octets[4:6] = struct.pack("!H", len(octets) - 40)
    return IPv6(bytes(octets))


def answer(sas, words):
    verb, sa, number, packet = words[0], sas[int(words[1])], int(words[2]), ip(bytes.fromhex(words[3]))
    if verb == "open":
        check(sa, packet)
        if sa["transport"] and sa["udp"]:
            packet = with_udp(sa, packet, False)
        return raw(association(sa, number).decrypt(packet))
    sender = association(sa, number >> 32)
    # Not as an argument, which scapy ignores if it is zero, as the lower half is now and then.
    sender.seq_num = number & 0xFFFFFFFF
    # Where it is free to choose, the peer's IV is not like ours.
    iv = os.urandom(16) if sender.crypt_algo.name == "AES-CBC" else algorithms.iv(sender, number)
    sealed = sender.encrypt(packet, iv=iv)
    if sa["transport"]:
        return raw(with_udp(sa, sealed, True) if sa["udp"] else sealed)
    if sa["udp"]:
        # scapy 2.5 fixes the length before it appends the ESP packet.
        sealed[UDP].len = 8 + len(sealed[ESP])
    return raw(sealed)


sas = json.loads(sys.stdin.readline())
for line in sys.stdin:
    try:
        print(answer(sas, line.split()).hex(), flush=True)
    except Exception as error:  # pylint: disable=broad-except
        print("error", repr(error), flush=True)
