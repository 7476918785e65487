#!/usr/bin/python3
"""An ESP peer made of scapy, spoken to over stdin and stdout.

The first line is a JSON list of SAs. After it come questions, each a line of blank-separated words and then octets:
    open SA SEQUENCE_HIGH LENGTH        of an outer packet: the inner packet is answered, or in transport mode the
                                        packet without ESP
    seal SA SEQUENCE LENGTH             of an inner packet: the outer packet is answered
    open-esp SA SEQUENCE_HIGH LENGTH    of an ESP packet alone, without headers in front: what it carries is answered,
                                        and after it one octet, its next header
    seal-esp SA SEQUENCE LENGTH         the same the other way
SA is an index into the list, packets begin with their IP header. Answers are "ok LENGTH" and octets, or "error" and a
reason. An empty line flushes them. Ends at the end of its input.

Most of the time of a packet goes into taking headers apart, not into ESP: so a few go whole, and many as ESP alone.
"""
import json
import os
import struct
import sys

from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, _ESPPlain

import scapy_algorithms as algorithms


# No part of an inner packet is looked at: dissecting it takes longer than ESP does.
UDP.payload_guess = [guess for guess in UDP.payload_guess if guess[1] is ESP]
for outer in (IP, IPv6):
    outer.payload_guess = [guess for guess in outer.payload_guess if guess[1] in (ESP, UDP, IP, IPv6)]


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


def free_iv(sa, number):
    """Where it is free to choose, the peer's IV is not like ours."""
    return os.urandom(16) if sa.crypt_algo.name == "AES-CBC" else algorithms.iv(sa, number)


def open_esp(sa, octets):
    esp = ESP(octets)
    sa.check_spi(esp)
    sa.auth_algo.verify(esp, sa.auth_key)
    icv_size = sa.crypt_icv_size or sa.crypt_algo.icv_size or sa.auth_algo.icv_size
    plain = sa.crypt_algo.decrypt(sa, esp, sa.crypt_key, icv_size, esn_en=sa.esn_en, esn=sa.esn)
    return plain.data + bytes([plain.nh])


def seal_esp(sa, number, text):
    esp = _ESPPlain(spi=sa.spi, seq=number & 0xFFFFFFFF, iv=free_iv(sa, number), data=text[:-1], nh=text[-1])
    esp = sa.crypt_algo.encrypt(sa, sa.crypt_algo.pad(esp), sa.crypt_key, sa.crypt_icv_size, esn_en=sa.esn_en,
                                esn=sa.esn)
    sa.auth_algo.sign(esp, sa.auth_key)
    return raw(esp)


def answer(verb, sa, number, octets):
    if verb == "open-esp":
        return open_esp(association(sa, number), octets)
    if verb == "seal-esp":
        return seal_esp(association(sa, number >> 32), number, octets)
    packet = ip(octets)
    if verb == "open":
        check(sa, packet)
        if sa["transport"] and sa["udp"]:
            packet = with_udp(sa, packet, False)
        return raw(association(sa, number).decrypt(packet))
    sender = association(sa, number >> 32)
    # Not as an argument, which scapy ignores if it is zero, as the lower half is now and then.
    sender.seq_num = number & 0xFFFFFFFF
    sealed = sender.encrypt(packet, iv=free_iv(sender, number))
    if sa["transport"]:
        return raw(with_udp(sa, sealed, True) if sa["udp"] else sealed)
    if sa["udp"]:
        # scapy 2.5 fixes the length before it appends the ESP packet.
        sealed[UDP].len = 8 + len(sealed[ESP])
    return raw(sealed)


questions, answers = sys.stdin.buffer, sys.stdout.buffer
sas = json.loads(questions.readline())
for line in questions:
    if not (words := line.decode().split()):
        answers.flush()
        continue
    packet = questions.read(int(words[3]))
    try:
        octets = answer(words[0], sas[int(words[1])], int(words[2]), packet)
        answers.write(b"ok %d\n" % len(octets) + octets)
    except Exception as error:  # pylint: disable=broad-except
        answers.write(b"error %r\n" % error)
        answers.flush()
