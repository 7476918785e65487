# A small IKEv2 (RFC 7296) over the library `cryptography`, which shares nothing with ours: IKE SAs of one suite (AES-GCM-256,
# HMAC-SHA-256, X25519), with pre-shared keys, without children (RFC 6023) or with CHILD SAs of AES-GCM-256 over raw ESP. It is
# there for what strongSwan does not have. It answers nothing by itself: a test says what it does next. Octets are hexadecimal
# in JSON.
import hashlib
import hmac
import ipaddress
import os
import socket
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SA, KE, IDI, IDR, AUTH, NONCE, NOTIFY, DELETE, TSI, TSR, SK, PS = 33, 34, 35, 36, 39, 40, 41, 42, 44, 45, 46, 54
IKE_SA_INIT, IKE_AUTH, CREATE_CHILD_SA, INFORMATIONAL, IKE_SESSION_RESUME = 34, 35, 36, 37, 38
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
        # The last one that was used: of an initiator that of IKE_SA_INIT.
        self.next_request, self.keys, self.sent = 0 if began else -1, None, 0
        self.auth_puzzle = None

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

    def seal(self, exchange, payloads, response, number, shown=b""):
        """`shown`: the body of a puzzle's solution, before what is encrypted."""
        first, octets = chain(payloads)
        iv = struct.pack("!Q", self.sent)
        self.sent += 1
        length = 4 + 8 + len(octets) + 1 + 16
        before = struct.pack("!BBH", SK, 0, 4 + len(shown)) + shown if shown else b""
        whole = 28 + len(before) + length
        head = self.header(PS if shown else SK, exchange, self.flags(response), number, whole) + before
        head += struct.pack("!BBH", first, 0, length)
        key = self.sealing[self.began]
        return head + iv + AESGCM(key[:32]).encrypt(key[32:] + iv, octets + b"\0", head)

    def open(self, octets):
        """(exchange, message ID, whether it is a response, whether it was protected, payloads)."""
        first, _, exchange, flags, number, _ = struct.unpack("!BBBBII", octets[16:28])
        payloads = unchain(first, octets[28:])
        response = bool(flags & RESPONSE)
        if not payloads or payloads[-1][0] != SK:
            return exchange, number, response, False, payloads
        # What is encrypted comes last, and all before it is authenticated.
        at = len(octets) - len(payloads[-1][1]) - 4
        key = self.sealing[not self.began]
        iv, sealed = octets[at + 4 : at + 12], octets[at + 12 :]
        opened = AESGCM(key[:32]).decrypt(key[32:] + iv, sealed, octets[: at + 4])
        return exchange, number, response, True, unchain(octets[at], opened[: -1 - opened[-1]])

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
        # The puzzle of IKE_AUTH (RFC 8019 §7.2), about another string.
        self.auth_puzzle = asked.get(PUZZLE)
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
        shown = solve(self.nonce_r + self.spi_r, self.auth_puzzle[2]) if self.auth_puzzle else b""
        payloads = self.exchange(IKE_AUTH, [(IDI, mine)] + asked + [auth] + more, shown)
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

    def answer_first(self, exchange, old, more=()):
        """IKE_SA_INIT or, with the old SK_d, IKE_SESSION_RESUME as the responder: the request's payloads. What `more` is said."""
        self.first = self.receive(exchange, False)
        self.spi_i, self.spi_r = self.first[:8], os.urandom(8)
        payloads = self.open(self.first)[4]
        self.nonce_i, self.nonce_r = body_of(payloads, NONCE), os.urandom(32)
        nonces, answer = self.nonce_i + self.nonce_r, [(NONCE, self.nonce_r)]
        if old is None:
            private = X25519PrivateKey.generate()
            public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            answer = [proposal(), (KE, struct.pack("!HH", X25519, 0) + public)] + answer + [notify(CHILDLESS), *more]
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

    def exchange(self, exchange, payloads, shown=b""):
        self.next_request += 1
        self.send(self.seal(exchange, payloads, False, self.next_request, shown))
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
def begin_as_nobody(local, remote, says, them, secret, more, meddled=False):
    """Begins an IKE SA without proof of who this is, whatever it `says`; without a `secret`, the other end has none either.
    Whether somebody has `meddled` with IKE_SA_INIT on its way."""
    global IKE
    IKE = Ike(local, remote, True)
    IKE.init()
    if meddled:
        IKE.first += b"\0"
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
    """Begins an IKE SA with a gateway that asks for puzzles to be solved: those that were asked."""
    global IKE
    IKE = Ike(local, remote, True)
    puzzle = IKE.init(solves)
    if IKE.auth_puzzle:
        # What does not show the solution is no request.
        IKE.send(IKE.seal(IKE_AUTH, [], False, 1))
    answer = IKE.authenticate(us, them, secret.encode(), [])
    assert body_of(answer, AUTH), notifies(answer)
    return [puzzle and puzzle.hex(), IKE.auth_puzzle and IKE.auth_puzzle.hex()]


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
def ask_puzzle_in_auth(local, remote, us, secret, difficulty):
    """Lets in who comes and solves a puzzle in IKE_AUTH: the zero bits of each key's PRF."""
    global IKE
    IKE = Ike(local, remote, False)
    IKE.answer_first(IKE_SA_INIT, None, [notify(PUZZLE, struct.pack("!HB", 5, difficulty))])
    octets = IKE.receive(IKE_AUTH, False)
    first, *_ = struct.unpack("!B", octets[16:17])
    shown = body_of(unchain(first, octets[28:]), PS) or b""
    keys = [shown[at : at + len(shown) // 4] for at in range(0, len(shown), max(len(shown) // 4, 1))]
    # It is authenticated like the rest.
    _, number, _, protected, payloads = IKE.open(octets)
    assert protected and body_of(payloads, AUTH) == IKE.proof_of(True, secret.encode(), body_of(payloads, IDI))
    mine = fqdn(us)
    auth = (AUTH, IKE.proof_of(False, secret.encode(), mine))
    IKE.send(IKE.seal(IKE_AUTH, [(IDR, mine), auth, notify(NO_ADDITIONAL_SAS)], True, number))
    return [zero_bits(prf(key, IKE.nonce_r + IKE.spi_r)) for key in keys]


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


# CHILD SAs, and ESP (RFC 4303) over a raw socket.


def esp_proposal(spi, bits=256):
    transforms = struct.pack("!BBHBBHHH", 3, 0, 12, 1, 0, 20, 0x800E, bits) + struct.pack("!BBHBBH", 0, 0, 8, 5, 0, 0)
    body = struct.pack("!BBBB", 1, 3, 4, 2) + spi + transforms
    return SA, struct.pack("!BBH", 0, 0, 4 + len(body)) + body


def selector(net):
    net = ipaddress.ip_network(net)
    return struct.pack("!BBHHH", 7, 0, 16, 0, 65535) + net[0].packed + net[-1].packed


def selectors(kind, net):
    return kind, struct.pack("!BBBB", 1, 0, 0, 0) + selector(net)


class Children:
    """The CHILD SAs of an IKE SA, by our SPI, and what has come on them."""

    def __init__(self, ike, local):
        self.ike, self.by_spi, self.waiting = ike, {}, {}
        self.esp = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
        self.esp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.esp.bind((local, 0))

    def add(self, ours, theirs, began, nonce_i, nonce_r):
        stream = prf_plus(self.ike.keys["d"], nonce_i + nonce_r, 72)
        keys = {True: stream[:36], False: stream[36:]}
        self.by_spi[ours] = {"theirs": theirs, "in": keys[not began], "out": keys[began], "sent": 0}
        return ours.hex()

    def opened(self, quiet):
        """What comes until nothing has come for so long: our SPI, the sequence number, the inner packet."""
        self.esp.settimeout(quiet)
        found = []
        while True:
            try:
                octets = self.esp.recv(65535)
            except TimeoutError:
                return found
            octets = octets[4 * (octets[0] & 15) :]
            spi, number = octets[:4], struct.unpack("!I", octets[4:8])[0]
            key = self.by_spi[spi]["in"]
            inner = AESGCM(key[:32]).decrypt(key[32:] + octets[8:16], octets[16:], octets[:8])
            found.append((spi.hex(), number, inner[: len(inner) - 2 - inner[-2]]))

    def send(self, ours, inner):
        sa = self.by_spi[ours]
        sa["sent"] += 1
        head, iv = sa["theirs"] + struct.pack("!I", sa["sent"]), struct.pack("!Q", sa["sent"])
        padding = bytes(range(1, 1 + -(len(inner) + 2) % 4))
        plain = inner + padding + bytes([len(padding), 4])
        sealed = AESGCM(sa["out"][:32]).encrypt(sa["out"][32:] + iv, plain, head)
        self.esp.sendto(head + iv + sealed, (self.ike.remote[0], 0))


CHILDREN = None


def spi_in(payloads):
    return body_of(payloads, SA)[8:12]


def udp(src, dst, ports, data):
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(data), 0, 0, 64, 17, 0)
    head += ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
    total = sum(struct.unpack("!10H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", total ^ 0xFFFF) + head[12:]
    return head + struct.pack("!HHHH", *ports, 8 + len(data), 0) + data


@command
def listen(local, remote):
    """Waits for an IKE SA to be begun, from now on."""
    global IKE
    IKE = Ike(local, remote, False)


@command
def let_in(local, us, secret, more):
    """Lets a peer in with the child that it asks for, and says this besides: what it has said of the child."""
    global CHILDREN
    IKE.answer_first(IKE_SA_INIT, None)
    _, number, _, _, payloads = IKE.open(IKE.receive(IKE_AUTH, False))
    right = IKE.auth_of(True, secret.encode(), body_of(payloads, IDI))
    assert body_of(payloads, AUTH) == b"\x02\0\0\0" + right, payloads
    CHILDREN, ours, mine = Children(IKE, local), os.urandom(4), fqdn(us)
    auth = (AUTH, b"\x02\0\0\0" + IKE.auth_of(False, secret.encode(), mine))
    ts = [(kind, body) for kind, body in payloads if kind in (TSI, TSR)]
    answer = [(IDR, mine), auth, esp_proposal(ours)] + ts + given(more)
    CHILDREN.add(ours, spi_in(payloads), False, IKE.nonce_i, IKE.nonce_r)
    IKE.send(IKE.seal(IKE_AUTH, answer, True, number))
    return {"spi": ours.hex(), "notifies": notifies(payloads)}


@command
def answer_child(more, refuse):
    """Answers the next CREATE_CHILD_SA request: with a child, or with a refusal. What it has said of the child."""
    _, number, _, _, payloads = IKE.open(IKE.receive(CREATE_CHILD_SA, False))
    asked = {"notifies": notifies(payloads), "ts": [body.hex() for kind, body in payloads if kind in (TSI, TSR)]}
    if refuse:
        IKE.send(IKE.seal(CREATE_CHILD_SA, [notify(refuse)], True, number))
        return asked
    ours, nonce = os.urandom(4), os.urandom(32)
    CHILDREN.add(ours, spi_in(payloads), False, body_of(payloads, NONCE), nonce)
    ts = [(kind, body) for kind, body in payloads if kind in (TSI, TSR)]
    IKE.send(IKE.seal(CREATE_CHILD_SA, [esp_proposal(ours), (NONCE, nonce)] + ts + given(more), True, number))
    return {"spi": ours.hex(), **asked}


@command
def begin_with_child(local, remote, us, them, secret, ts, more):
    """Begins an IKE SA with a child, about which it says this; gives what is said in the answer."""
    global IKE, CHILDREN
    IKE = Ike(local, remote, True)
    IKE.init()
    CHILDREN, ours = Children(IKE, local), os.urandom(4)
    child = [esp_proposal(ours), selectors(TSI, ts[0]), selectors(TSR, ts[1])]
    answer = IKE.authenticate(us, them, secret.encode(), child + given(more))
    CHILDREN.add(ours, spi_in(answer), True, IKE.nonce_i, IKE.nonce_r)
    return {"spi": ours.hex(), "notifies": notifies(answer)}


@command
def ask_child(ts, more, bits):
    """Asks for one more child, with a key of so many bits: our SPI if there is one now, and what is said."""
    ours, nonce = os.urandom(4), os.urandom(32)
    child = [esp_proposal(ours, bits), (NONCE, nonce), selectors(TSI, ts[0]), selectors(TSR, ts[1])]
    answer = IKE.exchange(CREATE_CHILD_SA, child + given(more))
    said = {"notifies": notifies(answer), "ts": [body.hex() for kind, body in answer if kind in (TSI, TSR)]}
    if body_of(answer, SA) is None:
        return said
    CHILDREN.add(ours, spi_in(answer), True, nonce, body_of(answer, NONCE))
    return {"spi": ours.hex(), **said}


@command
def delete_child(spi):
    """Deletes one of the children; gives the SPIs of the other end that go with it, and those that it then deletes itself."""
    ours = bytes.fromhex(spi)
    delete = (DELETE, struct.pack("!BBH", 3, 4, 1) + ours)
    gone = body_of(IKE.exchange(INFORMATIONAL, [delete]), DELETE)
    _, number, _, _, payloads = IKE.open(IKE.receive(INFORMATIONAL, False))
    more = body_of(payloads, DELETE)
    IKE.send(IKE.seal(INFORMATIONAL, [], True, number))
    cut = lambda body: [body[at : at + 4].hex() for at in range(4, len(body), 4)]
    return {"gone": cut(gone), "more": cut(more)}


@command
def opened(quiet):
    """What has come in UDP: our SPI, the sequence number, the source port, the payload's number."""
    found = CHILDREN.opened(quiet)
    return [[spi, number, *struct.unpack("!H", inner[20:22]), *struct.unpack("!I", inner[28:32])] for spi, number, inner in found]


@command
def send(spi, src, dst, count):
    """Sends UDP through a child."""
    for number in range(count):
        CHILDREN.send(bytes.fromhex(spi), udp(src, dst, (7000, 7001), struct.pack("!I", number)))
