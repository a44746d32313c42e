"""Counts what passes a machine's network devices: `python capture.py MARK`, until its standard input ends.

Run by itself in a machine of a lab. Prints `ready`, and at the end as JSON: device → how many frames held the mark; and
how many frames of overlays came or went by `eth0`.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from collections import Counter

_EVERYTHING = 3  # ETH_P_ALL
_OVERLAY = 4789


def main() -> None:
    mark = sys.argv[1].encode()
    devices: Counter[str] = Counter()
    overlay = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024**2)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            readable, _, _ = select.select([tap, sys.stdin], [], [])
            if tap not in readable:
                break
            frame, (device, *_) = tap.recvfrom(65536)
            if mark in frame:
                devices[device] += 1
            if device == "eth0" and _is_overlay(frame):
                overlay += 1
    sys.stdout.write(json.dumps({"marked": devices, "overlay": overlay}))


def _is_overlay(frame: bytes) -> bool:
    """IPv4, UDP, to the port of VXLAN."""
    if frame[12:14] != b"\x08\x00" or frame[23] != 17:
        return False
    header = 14 + (frame[14] & 15) * 4
    return int.from_bytes(frame[header + 2 : header + 4], "big") == _OVERLAY


if __name__ == "__main__":
    main()
