"""How a pass grows with nodes and waiting sessions: table and plot of docs/performance.md. Takes some minutes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

MOOR = str(Path(sys.executable).with_name("moor"))
PLOT = Path(__file__).resolve().parent.parent / "docs" / "schedule.svg"
NODES = (100, 1_000, 10_000)
WAITING = (1_000, 10_000, 100_000)
COLOURS = {100: "#4c78a8", 1_000: "#f58518", 10_000: "#54a24b"}
WIDTH, HEIGHT, MARGIN = 640, 360, 60
LEAST_S, MOST_S = 0.001, 10.0


def main() -> None:
    found = {(nodes, waiting): measured(nodes, waiting) for nodes in NODES for waiting in WAITING}
    print("| nodes | waiting | full pass | placed | warm pass |\n|---|---|---|---|---|")
    for (nodes, waiting), one in found.items():
        cold, warm = one["seconds"] * 1000, one["warm_seconds"] * 1000
        print(f"| {nodes:,} | {waiting:,} | {cold:.0f} ms | {one['placed']:,} | {warm:.1f} ms |")
    PLOT.write_text(drawn(found))


def measured(nodes: int, waiting: int) -> dict[str, Any]:
    command = [
        MOOR,
        "bench",
        "schedule",
        "--nodes",
        str(nodes),
        "--waiting",
        str(waiting),
        "--policy",
        "fifo",
        "--warm",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def drawn(found: dict[tuple[int, int], dict[str, Any]]) -> str:
    """Seconds over waiting sessions, both logarithmic; full passes as lines, warm ones dashed."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{MARGIN}" y="20">A pass by fifo, full (line), warm (dashed): seconds over waiting sessions</text>',
    ]
    for seconds in (0.001, 0.01, 0.1, 1.0, 10.0):
        height = y(seconds)
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - 120}" y1="{height}" y2="{height}" stroke="#dddddd"/>')
        parts.append(f'<text x="{MARGIN - 8}" y="{height + 4}" text-anchor="end">{seconds:g} s</text>')
    for waiting in WAITING:
        parts.append(f'<text x="{x(waiting)}" y="{HEIGHT - MARGIN + 20}" text-anchor="middle">{waiting:,}</text>')
    lowest = float(HEIGHT)
    for nodes, colour in COLOURS.items():
        for key, dash in (("seconds", "none"), ("warm_seconds", "4 4")):
            points = " ".join(f"{x(waiting)},{y(found[nodes, waiting][key])}" for waiting in WAITING)
            line = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
            parts.append(f'<polyline points="{points}" {line}/>')
        lowest = min(y(found[nodes, WAITING[-1]]["seconds"]) + 4, lowest - 14)  # names don't cover each other
        parts.append(f'<text x="{WIDTH - 112}" y="{lowest}" fill="{colour}">{nodes:,} nodes</text>')
    return "\n".join([*parts, "</svg>", ""])


def x(waiting: int) -> float:
    part = math.log10(waiting / WAITING[0]) / math.log10(WAITING[-1] / WAITING[0])
    return round(MARGIN + part * (WIDTH - 120 - MARGIN), 1)


def y(seconds: float) -> float:
    part = math.log10(max(seconds, LEAST_S) / LEAST_S) / math.log10(MOST_S / LEAST_S)
    return round(HEIGHT - MARGIN - part * (HEIGHT - 2 * MARGIN), 1)


if __name__ == "__main__":
    main()
