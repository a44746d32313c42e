"""`moor audit`: what it asks, how it shows it, and the proof of a file without any server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from moorage.domain.chain import hash_of
from tests.support.command import Moor, moor_for, served

ROW: dict[str, Any] = {
    "seq": 7, "at": "2026-01-02T03:04:05.000006+00:00", "actor": "root@example.org", "acted_as": "ada@example.org",
    "address": "192.0.2.1", "operation": "session:delete", "entity_id": "s\x1b[2J", "outcome": "denied",
    "code": "forbidden", "count": 3, "hash": "00" * 32,
}  # fmt: skip
HEAD = {"seq": 7, "hash": "ab" * 32}
BROKEN = {"rows": 2, "head": HEAD, "broken": {"seq": 3, "what": "the row is missing"}}


class Heard:
    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.proof: dict[str, Any] = {"rows": 7, "head": HEAD, "broken": None}

    def app(self) -> FastAPI:
        app = FastAPI(openapi_url=None)

        @app.get("/{path:path}")
        async def answer(path: str, request: Request) -> Response:
            self.asked.append((f"/{path}", dict(request.query_params)))
            if path == "audit/verify":
                return JSONResponse(self.proof)
            if path == "audit/export":
                return Response("".join(chain(3)), media_type="application/x-ndjson")
            return JSONResponse({"items": [ROW], "next": None})

        return app


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def moor(heard: Heard, tmp_path: Path) -> Iterator[Moor]:
    with served(heard.app()) as endpoint:
        yield moor_for(endpoint, tmp_path)


def chain(count: int) -> list[str]:
    """Lines as an export has them."""
    lines, previous = [], b""
    for seq in range(1, count + 1):
        record = json.dumps({"entity_id": f"s{seq}"})
        digest = hash_of(previous, seq, record)
        row = {"seq": seq, "previous": previous.hex(), "hash": digest.hex(), "record": record}
        lines.append(json.dumps(row) + "\n")
        previous = digest
    return lines


def test_rows_are_shown_in_words(moor: Moor, heard: Heard) -> None:
    outcome = moor("audit", "--since", "2h", "--entity", "session/5b1e", "--outcome", "denied", "--limit", "5")
    assert outcome.returncode == 0, outcome.stderr
    assert "root@example.org as ada@example.org" in outcome.stdout
    assert "denied (forbidden), 3 times" in outcome.stdout
    assert "\x1b" not in outcome.stdout
    wanted = {"since": "2h", "entity": "session", "entity_id": "5b1e", "outcome": "denied", "limit": "5"}
    assert heard.asked == [("/audit", wanted)]
    assert json.loads(moor("audit", "--json").stdout)["items"][0]["seq"] == 7


def test_an_export_is_what_the_proof_of_a_file_takes(moor: Moor, heard: Heard, tmp_path: Path) -> None:
    exported = moor("audit", "--export", "--actor", "ada@example.org")
    assert heard.asked == [("/audit/export", {"actor": "ada@example.org"})]
    file = tmp_path / "audit.jsonl"
    file.write_text(exported.stdout)
    outcome = moor("audit", "--verify-file", str(file), MOORAGE_ENDPOINT="http://127.0.0.1:1")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("3 rows, none of them changed; 3:")


def test_the_proof_says_the_head_to_keep(moor: Moor, heard: Heard) -> None:
    outcome = moor("audit", "--verify", "--expect", f"5:{'00' * 32}")
    assert (outcome.returncode, outcome.stdout) == (0, f"7 rows, none of them changed; 7:{'ab' * 32}\n")
    assert heard.asked == [("/audit/verify", {"expect": f"5:{'00' * 32}"})]
    heard.proof = BROKEN
    outcome = moor("audit", "--verify")
    assert (outcome.returncode, outcome.stderr) == (2, "broken at row 3: the row is missing\n")
    outcome = moor("audit", "--verify", "--json")
    assert (outcome.returncode, json.loads(outcome.stdout)) == (2, BROKEN)


@pytest.mark.parametrize(
    "lines",
    [[0, 2], [1, 0, 2], [0, 1, 1], [0, 2, 1]],
    ids=str,
)
def test_a_file_that_somebody_changed_is_found_out(moor: Moor, tmp_path: Path, lines: list[int]) -> None:
    whole, file = chain(3), tmp_path / "audit.jsonl"
    file.write_text("".join(whole[number] for number in lines))
    outcome = moor("audit", "--verify-file", str(file))
    assert outcome.returncode == 2
    assert outcome.stdout == ""
    assert "broken at row" in outcome.stderr


def test_a_changed_record_a_cut_end_and_nonsense_are_found_out(moor: Moor, tmp_path: Path) -> None:
    whole, file = chain(3), tmp_path / "audit.jsonl"
    file.write_text("".join(whole).replace("s2", "s9"))
    assert "broken at row 2" in moor("audit", "--verify-file", str(file)).stderr
    file.write_text("".join(whole[:2]))
    head = json.loads(whole[2])
    outcome = moor("audit", "--verify-file", str(file), "--expect", f"3:{head['hash']}")
    assert (outcome.returncode, "cut off" in outcome.stderr) == (2, True)
    file.write_text("[]\n")
    assert "line 1 is no row" in moor("audit", "--verify-file", str(file)).stderr
    assert moor("audit", "--verify-file", str(tmp_path / "none")).returncode == 1


def test_a_part_of_the_audit_starts_where_it_starts(moor: Moor, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.write_text("".join(chain(5)[2:]))
    outcome = moor("audit", "--verify-file", str(file))
    assert outcome.stdout.startswith("3 rows, none of them changed; 5:")
