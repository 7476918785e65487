# An IKEv2 client whose EAP is wpa_supplicant's: behind `ikev2.py` stands `eapol_test`, which speaks RADIUS, so that this is a
# RADIUS server to it, and to the gateway an IKE initiator. EAP packets are passed on as they come; the key that both ends
# have to come to is the one that wpa_supplicant says it has.
import pathlib
import re
import subprocess

EAP, EAP_ONLY_AUTHENTICATION = 48, 16417
ACCEPT, REJECT, CHALLENGE = 2, 3, 11
USER_MESSAGE, MESSAGE_AUTHENTICATOR, STATE = 79, 80, 24
EAP_SUCCESS, EAP_FAILURE = 3, 4
SHARED = b"between these two"


def attribute(kind, data):
    return bytes([kind, 2 + len(data)]) + data


def attributes(octets):
    found = []
    while octets:
        found.append((octets[0], octets[2 : octets[1]]))
        octets = octets[octets[1] :]
    return found


class Supplicant:
    """wpa_supplicant with a user of EAP-TTLS, and what it proves inside."""

    def __init__(self, user, password, phase1, phase2):
        here = pathlib.Path(__file__).parent
        path = here / "eapol.conf"
        path.write_text(
            f'network={{\nkey_mgmt=IEEE8021X\neapol_flags=0\neap=TTLS\nidentity="{user}"\npassword="{password}"\n'
            f'ca_cert="{here}/x509ca/root.pem"\nphase1="{phase1}"\nphase2="{phase2}"\n}}\n'
        )
        self.radius = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.radius.bind(("127.0.0.1", 0))
        self.radius.settimeout(20)
        self.log = open(here / "eapol.log", "w+b")
        port = str(self.radius.getsockname()[1])
        command = ["eapol_test", "-n", "-t20", "-c", path, "-a", "127.0.0.1", "-p", port, "-s", SHARED]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)

    def hear(self):
        """Its next EAP packet."""
        while True:
            self.request, self.address = self.radius.recvfrom(65535)
            found = attributes(self.request[20:])
            if any(kind == USER_MESSAGE for kind, _ in found):
                return b"".join(data for kind, data in found if kind == USER_MESSAGE)

    def say(self, code, packet):
        body = b"".join(attribute(USER_MESSAGE, packet[at : at + 253]) for at in range(0, len(packet), 253))
        body += attribute(STATE, b"x")
        unsigned = body + attribute(MESSAGE_AUTHENTICATOR, bytes(16))
        head = struct.pack("!BBH", code, self.request[1], 20 + len(unsigned))
        asked = self.request[4:20]
        sign = hmac.new(SHARED, head + asked + unsigned, hashlib.md5).digest()
        body += attribute(MESSAGE_AUTHENTICATOR, sign)
        answer = hashlib.md5(head + asked + body + SHARED).digest()
        self.radius.sendto(head + answer + body, self.address)

    def key(self):
        """The MSK that it has made, once it has ended."""
        self.process.wait(20)
        self.log.seek(0)
        text = self.log.read().decode(errors="replace")
        found = re.search(r"EAP-TTLS: Derived key - hexdump\(len=64\): ([0-9a-f ]+)", text)
        assert self.process.returncode == 0 and found, text[-4000:]
        return bytes.fromhex(found[1]), re.search(r"SSL: Using TLS version (\S+)", text)[1]


@command
def begin_by_eapol(local, remote, us, them, user, password, phase1, phase2):
    """Begins an IKE SA in which EAP-TTLS alone proves both ends: whether it came up, and by which TLS."""
    global IKE
    IKE = Ike(local, remote, True)
    IKE.init()
    mine, supplicant = fqdn(us), Supplicant(user, password, phase1, phase2)
    said = [(IDI, mine), (IDR, fqdn(them)), notify(EAP_ONLY_AUTHENTICATION)]
    answer = IKE.exchange(IKE_AUTH, said)
    assert body_of(answer, AUTH) is None, "EAP alone was agreed on"
    theirs, packet = body_of(answer, IDR), body_of(answer, EAP)
    # It says who it is before it is asked.
    identity = supplicant.hear()
    said = packet[:1].replace(b"\x01", b"\x02") + packet[1:2] + identity[2:]
    while True:
        packet = body_of(IKE.exchange(IKE_AUTH, [(EAP, said)]), EAP)
        if packet[0] == EAP_FAILURE:
            supplicant.say(REJECT, packet)
            supplicant.process.wait(20)
            return {"up": False}
        if packet[0] == EAP_SUCCESS:
            supplicant.say(ACCEPT, packet)
            break
        supplicant.say(CHALLENGE, packet)
        said = supplicant.hear()
    msk, version = supplicant.key()
    answer = IKE.exchange(IKE_AUTH, [(AUTH, IKE.proof_of(True, msk, mine))])
    assert body_of(answer, AUTH) == IKE.proof_of(False, msk, theirs), notifies(answer)
    return {"up": True, "tls": version}
