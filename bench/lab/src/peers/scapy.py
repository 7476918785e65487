# The frame around a scapy script: reads one JSON request a line ({"do": name, "with": {...}}), calls the function
# of that name that the script has marked with @command, and answers with one line: {"ok": result} or
# {"error": traceback}. The script follows below; serve() is called behind it.
import json
import logging
import sys
import traceback

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
COMMANDS = {}


def command(function):
    COMMANDS[function.__name__] = function
    return function


def serve():
    print(json.dumps({"ok": sorted(COMMANDS)}), flush=True)
    for line in sys.stdin:
        try:
            request = json.loads(line)
            answer = {"ok": COMMANDS[request["do"]](**request["with"])}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
