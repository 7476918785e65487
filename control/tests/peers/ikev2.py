# A small IKEv2 (RFC 7296) over the library `cryptography`, which shares nothing with ours: IKE SAs without children
# (RFC 6023), of one suite (AES-GCM-256, HMAC-SHA-256, X25519), with pre-shared keys. It is there for what strongSwan
# does not have. It answers nothing by itself: a test says what it does next. Octets are hexadecimal in JSON.
import hashlib
import hmac
import os
import socket
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SA, KE, IDI, IDR, AUTH, NONCE, NOTIFY, DELETE, SK, PS = 33, 34, 35, 36, 39, 40, 41, 42, 46, 54
IKE_SA_INIT, IKE_AUTH, INFORMATIONAL, IKE_SESSION_RESUME = 34, 35, 37, 38
TICKET_LT_OPAQUE, TICKET_OPAQUE, CHILDLESS, NO_ADDITIONAL_SAS = 16409, 16413, 16418, 35
COOKIE, PUZZLE = 16390, 16434
INITIATOR, RESPONSE = 0x08, 0x20
X25519 = 31
# RFC 7619: the identity, and as a secret that neither end needs one.
ID_NULL, NULL = b"\x0d\0\0\0", object()


def prf(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def prf_plus(key, seed, length):
    out, last, count = b"", b"", 1
    while len(out) < length:
        last = prf(key, last + seed + bytes([count]))
        out, count = out + last, count + 1
    return out[:length]


def chain(payloads):
    """Payloads [(type, body)] behind one another; the first one's type comes with them."""
    out = b""
    for index, (_, body) in enumerate(payloads):
        following = payloads[index + 1][0] if index + 1 < len(payloads) else 0
        out += struct.pack("!BBH", following, 0, 4 + len(body)) + body
    return (payloads[0][0] if payloads else 0), out


def unchain(first, octets):
    payloads = []
    while first:
        following, _, length = struct.unpack("!BBH", octets[:4])
        payloads.append((first, octets[4:length]))
        if first == SK:
            break
        first, octets = following, octets[length:]
    return payloads


def notify(kind, data=b"", protocol=0):
    return NOTIFY, struct.pack("!BBH", protocol, 0, kind) + data


def notifies(payloads):
    found = []
    for kind, body in payloads:
        if kind == NOTIFY:
            protocol, spi_size, number = struct.unpack("!BBH", body[:4])
            found.append([number, body[4 + spi_size :].hex(), protocol])
    return found


def body_of(payloads, kind):
    return next((body for found, body in payloads if found == kind), None)


def proposal():
    transforms = [
        struct.pack("!BBHBBHHH", 3, 0, 12, 1, 0, 20, 0x800E, 256),
        struct.pack("!BBHBBH", 3, 0, 8, 2, 0, 5),
        struct.pack("!BBHBBH", 0, 0, 8, 4, 0, X25519),
    ]
    body = b"".join(transforms)
    return SA, struct.pack("!BBHBBBB", 0, 0, 8 + len(body), 1, 1, 0, 3) + body


def zero_bits(output):
    """At the end of it."""
    number = int.from_bytes(output, "big")
    return (number & -number).bit_length() - 1


def solve(cookie, difficulty):
    """Four keys, RFC 8019 §7.1.2, of three octets, which is as good a length as any."""
    keys = (number.to_bytes(3, "big") for number in range(1 << 24))
    fitting = (key for key in keys if zero_bits(prf(key, cookie)) >= difficulty)
    return b"".join(next(fitting) for _ in range(4))


def fqdn(name):
    return b"\x02\0\0\0" + name.encode()


class Ike:
    """An IKE SA, or one that is being made. `began`: whether this end began it."""

    def __init__(self, local, remote, began, after=None):
        if after:
            self.socket = after.socket
        else:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.bind((local, 500))
            self.socket.settimeout(20)
        self.remote, self.began = (remote, 500), began
        self.spi_i, self.spi_r = os.urandom(8), bytes(8)
        self.next_request, self.keys, self.sent = 0, None, 0

    def header(self, first, exchange, flags, number, length):
        return self.spi_i + self.spi_r + struct.pack("!BBBBII", first, 0x20, exchange, flags, number, length)

    def flags(self, response):
        return (INITIATOR if self.began else 0) | (RESPONSE if response else 0)

    def clear(self, exchange, payloads, response=False, number=0):
        first, octets = chain(payloads)
        return self.header(first, exchange, self.flags(response), number, 28 + len(octets)) + octets

    def derive(self, skeyseed, nonces):
        stream = prf_plus(skeyseed, nonces + self.spi_i + self.spi_r, 32 + 36 + 36 + 32 + 32)
        cut = lambda at, length: stream[at : at + length]
        self.keys = {"d": cut(0, 32), "pi": cut(104, 32), "pr": cut(136, 32)}
        self.sealing = {True: cut(32, 36), False: cut(68, 36)}

    def seal(self, exchange, payloads, response, number):
        first, octets = chain(payloads)
        iv = struct.pack("!Q", self.sent)
        self.sent += 1
        length = 28 + 4 + 8 + len(octets) + 1 + 16
        head = self.header(SK, exchange, self.flags(response), number, length)
        head += struct.pack("!BBH", first, 0, length - 28)
        key = self.sealing[self.began]
        return head + iv + AESGCM(key[:32]).encrypt(key[32:] + iv, octets + b"\0", head)

    def open(self, octets):
        """(exchange, message ID, whether it is a response, whether it was protected, payloads)."""
        first, _, exchange, flags, number, _ = struct.unpack("!BBBBII", octets[16:28])
        payloads = unchain(first, octets[28:])
        response = bool(flags & RESPONSE)
        if first != SK:
            return exchange, number, response, False, payloads
        key = self.sealing[not self.began]
        iv, sealed = octets[32:40], octets[40:]
        opened = AESGCM(key[:32]).decrypt(key[32:] + iv, sealed, octets[:32])
        return exchange, number, response, True, unchain(octets[28], opened[: -1 - opened[-1]])

    def send(self, octets):
        self.socket.sendto(octets, self.remote)

    def receive(self, exchange, response):
        """The next message of that kind, as it is on the wire."""
        while True:
            octets = self.socket.recv(65535)
            if octets[18] == exchange and bool(octets[19] & RESPONSE) == response:
                return octets

    def auth(self, secret, message, nonce, key, identity):
        return prf(prf(secret, b"Key Pad for IKEv2"), message + nonce + prf(key, identity))

    def init(self, solves=True):
        """IKE_SA_INIT as the initiator; the puzzle that was asked. Whether it `solves` one."""
        private, self.nonce_i = X25519PrivateKey.generate(), os.urandom(32)
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        ke = struct.pack("!HH", X25519, 0) + public
        before, puzzle = [], None
        while True:
            self.first = self.clear(IKE_SA_INIT, before + [proposal(), (KE, ke), (NONCE, self.nonce_i)])
            self.send(self.first)
            self.second = self.receive(IKE_SA_INIT, True)
            payloads = self.open(self.second)[4]
            asked = {kind: bytes.fromhex(data) for kind, data, _ in notifies(payloads)}
            if COOKIE not in asked:
                break
            before, puzzle = [notify(COOKIE, asked[COOKIE])], asked.get(PUZZLE)
            if solves and puzzle:
                # PRF_HMAC_SHA2_256, which is all that is offered.
                assert puzzle[:2] == b"\0\x05", puzzle
                before.append((PS, solve(asked[COOKIE], puzzle[2])))
        self.spi_r = self.second[8:16]
        self.nonce_r = body_of(payloads, NONCE)
        shared = private.exchange(X25519PublicKey.from_public_bytes(body_of(payloads, KE)[4:]))
        nonces = self.nonce_i + self.nonce_r
        self.derive(prf(nonces, shared), nonces)
        return puzzle

    def auth_of(self, initiator, secret, identity):
        """AUTH of an end: with a pre-shared key, without one as RFC 5723 §4.3.3 has it, or of nobody (RFC 7619 §2.1)."""
        message, nonce = (self.first, self.nonce_r) if initiator else (self.second, self.nonce_i)
        key = self.keys["pi" if initiator else "pr"]
        if secret is None:
            return prf(key, message + nonce + prf(key, identity))
        return self.auth(key if secret is NULL else secret, message, nonce, key, identity)

    def proof_of(self, initiator, secret, identity):
        """The AUTH payload's body."""
        method = 13 if secret is NULL else 2
        return struct.pack("!B3x", method) + self.auth_of(initiator, secret, identity)

    def authenticate(self, us, them, secret, more, ours=None):
        """IKE_AUTH as the initiator: the payloads of the answer, whose AUTH is right. `ours`: a secret of our own."""
        ours = ours or secret
        mine = ID_NULL if us is None else fqdn(us)
        asked = [] if them is None else [(IDR, fqdn(them))]
        auth = (AUTH, self.proof_of(True, ours, mine))
        payloads = self.exchange(IKE_AUTH, [(IDI, mine)] + asked + [auth] + more)
        found = body_of(payloads, AUTH)
        if found is not None:
            assert found == self.proof_of(False, secret, body_of(payloads, IDR)), payloads
        return payloads

    def resume(self, ticket, old):
        """IKE_SESSION_RESUME as the initiator, with the old SK_d: nothing, or what the gateway says instead."""
        self.nonce_i = os.urandom(32)
        self.first = self.clear(IKE_SESSION_RESUME, [(NONCE, self.nonce_i), notify(TICKET_OPAQUE, ticket)])
        self.send(self.first)
        self.second = self.receive(IKE_SESSION_RESUME, True)
        payloads = self.open(self.second)[4]
        self.nonce_r, self.spi_r = body_of(payloads, NONCE), self.second[8:16]
        if self.nonce_r is None:
            return notifies(payloads)
        nonces = self.nonce_i + self.nonce_r
        self.derive(prf(old, b"Resumption" + nonces), nonces)
        return None

    def answer_first(self, exchange, old):
        """IKE_SA_INIT or, with the old SK_d, IKE_SESSION_RESUME as the responder: the request's payloads."""
        self.first = self.receive(exchange, False)
        self.spi_i, self.spi_r = self.first[:8], os.urandom(8)
        payloads = self.open(self.first)[4]
        self.nonce_i, self.nonce_r = body_of(payloads, NONCE), os.urandom(32)
        nonces, answer = self.nonce_i + self.nonce_r, [(NONCE, self.nonce_r)]
        if old is None:
            private = X25519PrivateKey.generate()
            public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            answer = [proposal(), (KE, struct.pack("!HH", X25519, 0) + public)] + answer + [notify(CHILDLESS)]
            skeyseed = prf(nonces, private.exchange(X25519PublicKey.from_public_bytes(body_of(payloads, KE)[4:])))
        else:
            skeyseed = prf(old, b"Resumption" + nonces)
        self.second = self.clear(exchange, answer, True)
        self.send(self.second)
        self.derive(skeyseed, nonces)
        return payloads

    def answer_auth(self, us, secret, more):
        """IKE_AUTH as the responder, whose initiator's AUTH is right: the request's payloads."""
        _, number, _, _, payloads = self.open(self.receive(IKE_AUTH, False))
        assert body_of(payloads, AUTH) == self.proof_of(True, secret, body_of(payloads, IDI)), payloads
        mine = ID_NULL if us is None else fqdn(us)
        auth = (AUTH, self.proof_of(False, secret, mine))
        self.send(self.seal(IKE_AUTH, [(IDR, mine), auth] + more, True, number))
        return payloads

    def exchange(self, exchange, payloads):
        self.next_request += 1
        self.send(self.seal(exchange, payloads, False, self.next_request))
        _, number, _, protected, payloads = self.open(self.receive(exchange, True))
        assert (number, protected) == (self.next_request, True)
        return payloads


IKE = None


def given(more):
    return [notify(kind, bytes.fromhex(data), protocol) for kind, data, protocol in more]


@command
def begin(local, remote, us, them, secret, more):
    """Begins an IKE SA without a child, with further notifications in IKE_AUTH; gives those of the answer."""
    global IKE
    IKE = Ike(local, remote, True)
    IKE.init()
    answer = IKE.authenticate(us, them, secret.encode(), given(more))
    assert body_of(answer, AUTH), notifies(answer)
    return {"spis": (IKE.spi_i + IKE.spi_r).hex(), "notifies": notifies(answer)}


@command
def begin_as_nobody(local, remote, says, them, secret, more):
    """Begins an IKE SA without proof of who this is, whatever it `says`; without a `secret`, the other end has none either."""
    global IKE
    IKE = Ike(local, remote, True)
    IKE.init()
    answer = IKE.authenticate(says, them, secret.encode() if secret else NULL, given(more), NULL)
    identity = body_of(answer, IDR)
    return {"identity": identity and identity.hex(), "notifies": notifies(answer)}


@command
def answer_as_nobody(local, remote):
    """Lets in whoever comes and says that it is nobody: the identity that it says, and what else."""
    global IKE
    IKE = Ike(local, remote, False)
    IKE.answer_first(IKE_SA_INIT, None)
    payloads = IKE.answer_auth(None, NULL, [notify(NO_ADDITIONAL_SAS)])
    return {"identity": body_of(payloads, IDI).hex(), "notifies": notifies(payloads)}


@command
def begin_under_attack(local, remote, us, them, secret, solves):
    """Begins an IKE SA with a gateway that asks for puzzles to be solved: the one that was asked."""
    global IKE
    IKE = Ike(local, remote, True)
    puzzle = IKE.init(solves)
    answer = IKE.authenticate(us, them, secret.encode(), [])
    assert body_of(answer, AUTH), notifies(answer)
    return puzzle and puzzle.hex()


@command
def ask_puzzle(local, remote, difficulty):
    """Asks whoever comes to solve a puzzle: the zero bits of each key's PRF, and the payloads of the second request."""
    global IKE
    IKE = Ike(local, remote, False)
    first = IKE.receive(IKE_SA_INIT, False)
    IKE.spi_i, cookie = first[:8], os.urandom(40)
    puzzle = struct.pack("!HB", 5, difficulty)
    IKE.send(IKE.clear(IKE_SA_INIT, [notify(COOKIE, cookie), notify(PUZZLE, puzzle)], True))
    while True:
        again = IKE.receive(IKE_SA_INIT, False)
        if again != first:
            break
    payloads = IKE.open(again)[4]
    assert notifies(payloads)[0] == [COOKIE, cookie.hex(), 0], payloads
    keys = body_of(payloads, PS) or b""
    keys = [keys[at : at + len(keys) // 4] for at in range(0, len(keys), max(len(keys) // 4, 1))]
    return {
        "bits": [zero_bits(prf(key, cookie)) for key in keys],
        "different": len(set(keys)),
        "longest": max(map(len, keys), default=0),
        "kinds": [kind for kind, _ in payloads],
    }


@command
def ask(more):
    """An INFORMATIONAL request: whether its answer is protected, and what it says."""
    IKE.next_request += 1
    IKE.send(IKE.seal(INFORMATIONAL, given(more), False, IKE.next_request))
    octets = IKE.receive(INFORMATIONAL, True)
    _, number, _, protected, payloads = IKE.open(octets)
    assert number == IKE.next_request and octets[:16] == IKE.spi_i + IKE.spi_r
    return {"protected": protected, "flags": octets[19], "notifies": notifies(payloads)}


@command
def answer_in_clear(exchange, more):
    """Answers the next request as one that has lost its state would; gives what was asked."""
    octets = IKE.receive(exchange, False)
    _, number, _, protected, payloads = IKE.open(octets)
    assert protected
    IKE.send(IKE.clear(exchange, given(more), True, number))
    return notifies(payloads)


@command
def resume(local, remote, us, them, ticket, more):
    """Resumes the IKE SA that there was: what IKE_AUTH is answered, or what the gateway says instead."""
    global IKE
    again = Ike(local, remote, True, IKE)
    refused = again.resume(bytes.fromhex(ticket), IKE.keys["d"])
    if refused is not None:
        return {"refused": refused}
    answer = again.authenticate(us, them, None, given(more))
    IKE = again
    return {"spis": (IKE.spi_i + IKE.spi_r).hex(), "notifies": notifies(answer)}


@command
def give(local, remote, us, secret, ticket, lifetime):
    """As gateway lets a client in, gives it a ticket, and is silent until it shows the ticket: what IKE_AUTH then says."""
    global IKE
    IKE = Ike(local, remote, False)
    ticket = bytes.fromhex(ticket)
    IKE.answer_first(IKE_SA_INIT, None)
    asked = IKE.answer_auth(us, secret.encode(), [notify(TICKET_LT_OPAQUE, struct.pack("!I", lifetime) + ticket)])
    again = Ike(local, remote, False, IKE)
    shown = again.answer_first(IKE_SESSION_RESUME, IKE.keys["d"])
    assert notifies(shown)[0] == [TICKET_OPAQUE, ticket.hex(), 0], shown
    # Its child is another matter.
    payloads = again.answer_auth(us, None, [notify(NO_ADDITIONAL_SAS)])
    IKE = again
    kinds = [kind for kind, _ in payloads]
    return {"asked": notifies(asked), "kinds": kinds, "spis": (IKE.spi_i + IKE.spi_r).hex()}
