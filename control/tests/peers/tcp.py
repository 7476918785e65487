# The small IKEv2 of ikev2.py over TCP (RFC 9329), with a child whose ESP is scapy's. Follows ikev2.py in one script.
import struct

from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation

TS_I, TS_R, MOBIKE_SUPPORTED = 44, 45, 16396
UPDATE_SA_ADDRESSES, COOKIE2 = 16400, 16401
MARKER = bytes(4)


def framed(octets):
    return struct.pack("!H", 2 + len(octets)) + octets


class TcpIke(Ike):
    """An IKE SA, and its child, that go by a TCP stream."""

    def __init__(self, local, remote, port, began, listener=None):
        self.local, self.peer, self.port, self.began = local, remote, port, began
        self.spi_i, self.spi_r = os.urandom(8), bytes(8)
        self.next_request, self.keys, self.sent = 0, None, 0
        # What came while something else was waited for.
        self.ike, self.esp = [], []
        if listener is None:
            self.connect()
        else:
            self.accept(listener)

    def accept(self, listener):
        """The next stream that the gateway opens, whose end there is `self.theirs`."""
        self.socket, self.theirs = listener.accept()
        self.socket.settimeout(20)
        self.pending = b""
        assert self.exactly(6) == b"IKETCP"

    def connect(self):
        self.socket = socket.create_connection((self.peer, self.port), 20, (self.local, 0))
        self.socket.sendall(b"IKETCP")
        self.pending = b""

    def exactly(self, count):
        while len(self.pending) < count:
            octets = self.socket.recv(65535)
            assert octets, "the stream was closed"
            self.pending += octets
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken

    def packet(self):
        (length,) = struct.unpack("!H", self.exactly(2))
        return self.exactly(length - 2)

    def send(self, octets):
        self.socket.sendall(framed(MARKER + octets))

    def receive(self, exchange, response):
        wanted = lambda octets: octets[18] == exchange and bool(octets[19] & RESPONSE) == response
        while not any(wanted(octets) for octets in self.ike):
            self.sort(self.packet())
        octets = next(octets for octets in self.ike if wanted(octets))
        self.ike.remove(octets)
        return octets

    def sort(self, octets):
        if octets[:4] == MARKER:
            self.ike.append(octets[4:])
        else:
            self.esp.append(octets)

    def child(self, spi):
        """Payloads that ask for a child, or answer, with AES-GCM-256 and without ESN."""
        transforms = struct.pack("!BBHBBHHH", 3, 0, 12, 1, 0, 20, 0x800E, 256) + struct.pack("!BBHBBH", 0, 0, 8, 5, 0, 0)
        body = struct.pack("!BBHBBBB", 0, 0, 12 + len(transforms), 1, 3, 4, 2) + struct.pack("!I", spi) + transforms
        return SA, body

    def key_child(self, theirs, ours):
        """The keys of the child, from the IKE SA's (RFC 7296 §2.17)."""
        stream = prf_plus(self.keys["d"], self.nonce_i + self.nonce_r, 72)
        first, second = stream[:36], stream[36:]
        out, back = (first, second) if self.began else (second, first)
        make = lambda spi, key, src, dst: SecurityAssociation(
            ESP, spi=spi, crypt_algo="AES-GCM", crypt_key=key, tunnel_header=IP(src=src, dst=dst))
        self.out, self.back = make(theirs, out, self.local, self.peer), make(ours, back, self.peer, self.local)
        self.ours = ours

    def seal_packet(self, inner):
        self.socket.sendall(framed(raw(self.out.encrypt(inner)[ESP])))

    def open_packet(self):
        """The next packet that comes out of the child."""
        while not self.esp:
            self.sort(self.packet())
        outer = IP(raw(IP(src=self.peer, dst=self.local, proto=50) / self.esp.pop(0)))
        return self.back.decrypt(outer)


def selectors(nets):
    body = b"".join(
        struct.pack("!BBHHH", kind, 0, 8 + 2 * len(low), 0, 65535) + low + high for kind, low, high in nets)
    return struct.pack("!B3x", len(nets)) + body


def net(octets, length):
    size = len(octets) * 8
    low = int.from_bytes(octets, "big") >> (size - length) << (size - length)
    high = low | ((1 << (size - length)) - 1)
    return (7 if size == 32 else 8), low.to_bytes(size // 8, "big"), high.to_bytes(size // 8, "big")


def nets(texts):
    parsed = [text.split("/") for text in texts]
    family = lambda addr: socket.AF_INET6 if ":" in addr else socket.AF_INET
    return selectors([net(socket.inet_pton(family(addr), addr), int(length)) for addr, length in parsed])


PEER = LISTENER = None


@command
def begin_tcp(local, remote, port, us, them, secret, ours, theirs, more):
    """Begins an IKE SA with a child between these prefixes, by TCP; gives the notifications of IKE_AUTH's answer."""
    global PEER
    PEER = TcpIke(local, remote, port, True)
    PEER.init()
    spi = 0xC0FFEE01
    child = [PEER.child(spi), (TS_I, nets(ours)), (TS_R, nets(theirs))] + given(more)
    answer = PEER.authenticate(us, them, secret.encode(), child)
    PEER.key_child(struct.unpack("!I", body_of(answer, SA)[8:12])[0], spi)
    return notifies(answer)


@command
def listen_tcp(local, port):
    """Streams may be opened from now on."""
    global LISTENER
    LISTENER = socket.create_server((local, port))
    LISTENER.settimeout(20)


@command
def let_in_tcp(local, remote, port, us, secret, more):
    """Lets the gateway in with the child that it asks for, in a stream that it opens; gives what it says in IKE_AUTH."""
    global PEER
    PEER = TcpIke(local, remote, port, False, LISTENER)
    payloads = PEER.answer_first(IKE_SA_INIT, None)
    # RFC 7296 §2.23, of the stream's ends (RFC 9329 §6.5).
    seen_as = {kind: bytes.fromhex(data) for kind, data, _ in notifies(payloads)}
    mine, theirs = (local, port), PEER.theirs
    for kind, (address, at) in ((16388, theirs), (16389, mine)):
        hashed = PEER.spi_i + bytes(8) + socket.inet_aton(address) + struct.pack("!H", at)
        assert seen_as[kind] == hashlib.sha1(hashed).digest(), (kind, address, at)
    _, number, _, _, payloads = PEER.open(PEER.receive(IKE_AUTH, False))
    assert body_of(payloads, AUTH) == PEER.proof_of(True, secret.encode(), body_of(payloads, IDI)), payloads
    spi, name = 0xC0FFEE02, fqdn(us)
    auth = (AUTH, PEER.proof_of(False, secret.encode(), name))
    ts = [(kind, body) for kind, body in payloads if kind in (TS_I, TS_R)]
    PEER.send(PEER.seal(IKE_AUTH, [(IDR, name), auth, PEER.child(spi)] + ts + given(more), True, number))
    PEER.key_child(struct.unpack("!I", body_of(payloads, SA)[8:12])[0], spi)
    return notifies(payloads)


@command
def end_stream(reset):
    """Ends the stream, with or without a word (RST), takes the next, and gives the port that it comes from there."""
    if reset:
        PEER.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    PEER.socket.close()
    PEER.accept(LISTENER)
    return PEER.theirs[1]


@command
def answer_told():
    """Answers the gateway's next INFORMATIONAL request as MOBIKE has it; gives what it says."""
    _, number, _, protected, payloads = PEER.open(PEER.receive(INFORMATIONAL, False))
    assert protected
    told = notifies(payloads)
    cookies = [notify(kind, bytes.fromhex(data)) for kind, data, _ in told if kind == COOKIE2]
    PEER.send(PEER.seal(INFORMATIONAL, cookies, True, number))
    return told


@command
def take_and_end(count):
    """Takes so many streams and ends each at once."""
    for _ in range(count):
        LISTENER.accept()[0].close()
    return None


@command
def is_closed():
    """Waits until the gateway has closed the stream."""
    while PEER.socket.recv(65535):
        pass
    return True


@command
def ping(src, dst, number):
    """An echo request into the tunnel, until an answer comes out of it: one may be lost with the stream before."""
    v6 = ":" in src
    if v6:
        request = IPv6(src=src, dst=dst) / ICMPv6EchoRequest(id=7, seq=number, data=b"x" * 600)
    else:
        request = IP(src=src, dst=dst) / ICMP(id=7, seq=number) / (b"x" * 600)
    PEER.socket.settimeout(1)
    for _ in range(20):
        PEER.seal_packet(request)
        try:
            answer = PEER.open_packet()
        except socket.timeout:
            continue
        PEER.socket.settimeout(20)
        echo = answer[ICMPv6EchoReply] if v6 else answer[ICMP]
        assert v6 or echo.type == 0, answer
        return [answer.src, answer.dst, echo.seq]
    raise AssertionError("no answer comes out of the tunnel")


@command
def ask_tcp(more):
    """An INFORMATIONAL request by the stream; gives the notifications of the answer."""
    return notifies(PEER.exchange(INFORMATIONAL, given(more)))


@command
def answer_tcp():
    """Answers the gateway's next INFORMATIONAL request with nothing; gives its message ID."""
    _, number, _, protected, _ = PEER.open(PEER.receive(INFORMATIONAL, False))
    assert protected
    PEER.send(PEER.seal(INFORMATIONAL, [], True, number))
    return number


@command
def hear_request():
    """Waits for the gateway's next request without answering it; gives its message ID."""
    return PEER.open(PEER.receive(INFORMATIONAL, False))[1]


@command
def connect_again():
    """Another stream in place of the one before, which ends at once."""
    PEER.socket.close()
    PEER.connect()
    return None


@command
def keep_alive():
    """A NAT keepalive, which is of no use in a stream (RFC 9329 §6.6)."""
    PEER.socket.sendall(framed(b"\xff"))
    return None


@command
def offer(local, remote, port, octets, count):
    """Opens streams that begin with these octets: how many of them the gateway keeps for a second."""
    opened = [socket.create_connection((remote, port), 20, (local, 0)) for _ in range(count)]
    for one in opened:
        one.sendall(bytes.fromhex(octets))
    kept = 0
    for one in opened:
        one.settimeout(1)
        try:
            kept += one.recv(1) != b""
        except socket.timeout:
            kept += 1
        except ConnectionError:
            pass
    for one in opened:
        one.close()
    return kept
