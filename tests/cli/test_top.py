"""`moor top` and `moor show` against an API of canned answers."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.support.command import Moor, moor_for, served

MIB = 1024**2
STATS: dict[str, Any] = {
    "at": "2026-01-01T00:00:00+00:00",
    "age_s": 60.0,
    "cpu": {"used": 1500.0, "limit": 2000, "percent": 75.0, "total_ms": 1},
    "mem": {"used": 64 * MIB, "limit": 256 * MIB, "percent": 25.0, "peak": 80 * MIB},
    "io": {"read_bytes": 1, "write_bytes": None, "read_bytes_s": 2048.0, "write_bytes_s": None},
    "net": {"rx_bytes": 1, "tx_bytes": 1, "rx_bytes_s": 0.0, "tx_bytes_s": 3.0},
    "pids": 7,
    "devices": [{"device_id": "gpu-0", "utilisation": 40.0, "mem": 8 * MIB, "mem_total": 16 * MIB}],
}
USAGE: dict[str, Any] = {
    "seconds": 100.0, "kernels": 1, "attempts": 1,
    "cpu": {"asked": 8000, "average": 300, "peak": None, "total_ms": 30_000},
    "mem": {"asked": 1024 * MIB, "average": 10 * MIB, "peak": 90 * MIB, "peak_used": 20 * MIB},
    "io": {"read_bytes": 5, "write_bytes": None}, "net": {"rx_bytes": 0, "tx_bytes": 1}, "pids": {"peak": 3},
    "devices": [{"device_id": "gpu-0", "utilisation": 2.0, "utilisation_peak": 9.0, "mem_peak": None}],
    "waste": ["asked 8 cores, used 0.3 on average"],
}  # fmt: skip


def fake_api() -> FastAPI:
    app = FastAPI()

    @app.get("/stats")
    async def index() -> dict[str, Any]:
        items = [
            {"name": "busy", "agents": ["n1"], "stats": STATS},
            {"name": "unknown", "agents": ["n2"], "stats": None},
        ]
        return {"items": items, "total": 5, "limit": 1000, "unanswered": ["n2"]}

    @app.get("/session/{ref}/stats")
    async def one(ref: str) -> dict[str, Any]:
        kernels = [{"role": "main", "idx": 1, "agent": "n1", "stats": STATS, "history": []},
                   {"role": "sub", "idx": 1, "agent": None, "stats": None, "history": []}]  # fmt: skip
        status = "RUNNING" if ref == "gang" else "TERMINATED"
        return {"session": {"id": "5b1e", "name": ref, "status": status}, "total": None, "usage": None,
                "kernels": kernels if ref == "gang" else [], "unanswered": []}  # fmt: skip

    @app.get("/session/{ref}")
    async def session(ref: str) -> dict[str, Any]:
        return {
            "id": "5b1e",
            "name": ref,
            "status": "TERMINATED",
            "command": [],
            "slots": {"cpu": 8000},
            "usage": USAGE,
            "links": {},
        }

    return app


@pytest.fixture
def endpoint() -> Iterator[str]:
    with served(fake_api()) as address:
        yield address


@pytest.fixture
def moor(endpoint: str, tmp_path: Path) -> Moor:
    return moor_for(endpoint, tmp_path)


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_top_shows_one_line_a_session_and_a_dash_for_what_is_unknown(moor: Moor) -> None:
    rows = _rows(moor("top").stdout)
    assert rows[0] == ["NAME", "AGENT", "CPU", "%", "MEM", "OF", "READ/s", "WRITE/s", "RX/s", "TX/s", "PIDS", "DEVICES"]
    assert rows[1][:10] == ["busy", "n1", "1.50", "75", "64 MiB", "256 MiB", "2 KiB", "–", "0 B", "3 B"]
    assert rows[1][10:] == ["7", "gpu-0 40 % 8 MiB"]
    assert rows[2] == ["unknown", "n2", *["–"] * 10]
    assert rows[3] == ["no answer from n2; 2 of 5 shown"]


def test_top_of_one_session_shows_its_kernels_and_their_sum(moor: Moor) -> None:
    rows = _rows(moor("top", "gang").stdout)
    assert [row[0] for row in rows[:4]] == ["KERNEL", "main1", "sub1", "sum"]
    assert rows[1][1:3] == ["n1", "1.50"]
    assert rows[3] == ["sum", *["–"] * 10]


def test_top_of_what_has_ended_says_where_to_look(moor: Moor) -> None:
    assert "old is TERMINATED; moor show tells what it used" in moor("top", "old").stdout


def test_top_answers_programs_in_json(moor: Moor) -> None:
    assert json.loads(moor("top", "--json").stdout)["items"][0]["stats"] == STATS
    assert json.loads(moor("top", "gang", "--json").stdout)["session"]["name"] == "gang"


def test_show_tells_what_was_used_and_wasted(moor: Moor) -> None:
    text = moor("show", "old").stdout
    assert "0.30 on average, – at most, of 8.00" in text
    assert "10 MiB on average, 20 MiB at most, of 1 GiB" in text
    assert "5 B read, – written" in text
    assert "gpu-0 2 %" in text
    assert "asked 8 cores, used 0.3 on average" in text


def test_top_on_a_terminal_looks_again_until_it_is_interrupted(endpoint: str, tmp_path: Path) -> None:
    keys = {"MOORAGE_ENDPOINT": endpoint, "MOORAGE_ACCESS_KEY": "a", "MOORAGE_SECRET_KEY": "s"}
    outer, inner = pty.openpty()
    live = subprocess.Popen(
        [sys.executable, "-m", "moorage.cli.main", "top", "--interval", "0.5"],
        stdout=inner,
        stderr=inner,
        env={**os.environ, **keys, "MOORAGE_CONFIG_DIR": str(tmp_path), "TERM": "xterm", "COLUMNS": "200"},
    )
    os.close(inner)
    seen = b""
    while seen.count(b"busy") < 2:
        seen += os.read(outer, 65536)
    live.send_signal(signal.SIGINT)
    assert live.wait(timeout=30) == 0
    os.close(outer)
