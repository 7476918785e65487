"""systemd's journal, as far as it takes entries: runs a command, prints each entry that comes as a line of JSON, and ends
the command after a certain one.

journal.py MESSAGE COMMAND [ARGUMENT...]; it listens at /run/systemd/journal/socket, in whatever /run there is.
Entries are fields, `NAME=value`, or NAME, a newline, the length in 64 bits, little-endian, and the value
(https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
"""

import json
import os
import socket
import subprocess
import sys
import threading


def fields(entry):
    found = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(entry[:8], "little")
            value, entry = entry[8 : 8 + length], entry[8 + length + 1 :]
        found[name.decode()] = value.decode()
    return found


os.makedirs("/run/systemd/journal", exist_ok=True)
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.bind("/run/systemd/journal/socket")
found, last, command = None, sys.argv[1], subprocess.Popen(sys.argv[2:])
# Whoever waits for the command learns of its end here as well.
threading.Thread(target=lambda: (command.wait(), journal.shutdown(socket.SHUT_RD)), daemon=True).start()
while command.poll() is None or found:
    found = fields(journal.recv(1 << 18))
    print(json.dumps(found), flush=True)
    if found.get("MESSAGE") == last:
        break
command.terminate()
sys.exit(command.wait())
