"""`moor secret` takes values where nobody sees them, and `moor rekey` reads the servers' settings."""

from __future__ import annotations

import asyncio
import base64
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from moorage.db import tenancy
from moorage.db.engine import connect
from moorage.seal import Seal
from tests.support.command import moor_for, served

SHOWN: dict[str, Any] = {
    "name": "hf-token", "scope": "user", "owner": "ada@example.org", "created_by": "ada@example.org",
    "created_at": "2030-01-01T00:00:00+00:00", "modified_at": "2030-01-01T00:00:00+00:00",
}  # fmt: skip
OLD, NEW = "k1:" + "11" * 32, "k2:" + "22" * 32


class Moor:
    """Runs `moor` with something on its standard input; `asked` is what the API heard."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self._folder = folder
        self.endpoint = ""

    def app(self) -> FastAPI:
        app = FastAPI(openapi_url=None)

        @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
        async def answer(path: str, request: Request) -> Response:
            body = await request.json() if await request.body() else None
            self.asked.append((request.method, str(request.url).removeprefix(self.endpoint), body))
            if request.method == "DELETE":
                return Response(status_code=204)
            return JSONResponse({"items": [SHOWN]} if path == "secret" else {**SHOWN, "id": "1"})

        return app

    @property
    def environment(self) -> dict[str, str]:
        outer = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
        ours = {"MOORAGE_ENDPOINT": self.endpoint, "MOORAGE_ACCESS_KEY": "a", "MOORAGE_SECRET_KEY": "s"}
        return outer | ours | {"MOORAGE_CONFIG_DIR": str(self._folder)}

    def __call__(self, *arguments: str, stdin: Any = b"") -> subprocess.CompletedProcess[bytes]:
        given = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        return subprocess.run(
            [sys.executable, "-m", "moorage.cli.main", *arguments],
            env=self.environment, capture_output=True, timeout=60, check=False, **given,
        )  # fmt: skip

    @property
    def value(self) -> bytes:
        return base64.b64decode(self.asked[-1][2]["value"])


@pytest.fixture
def moor(tmp_path: Path) -> Iterator[Moor]:
    moor = Moor(tmp_path)
    with served(moor.app()) as endpoint:
        moor.endpoint = endpoint
        yield moor


def test_a_value_comes_from_standard_input_less_one_newline(moor: Moor) -> None:
    done = moor("secret", "set", "hf-token", stdin=b"hunter2\n\n")
    assert done.returncode == 0, done.stderr
    assert moor.asked[-1][:2] == ("PUT", "/secret/hf-token")
    assert moor.value == b"hunter2\n"
    assert b"hunter2" not in done.stdout + done.stderr


def test_a_file_is_taken_as_it_is(moor: Moor, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\n")
    assert moor("secret", "set", "key", "--project", "default/p", "--file", str(tmp_path / "key")).returncode == 0
    assert moor.value == b"\xff\n"
    assert moor.asked[-1][2]["project"] == "default/p"


def test_on_a_terminal_it_is_asked_for_without_echo(moor: Moor) -> None:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "moorage.cli.main", "secret", "set", "hf-token"],
        env=moor.environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=_on_this_terminal,
    )  # fmt: skip
    os.close(theirs)
    said = _read_until(ours, b"value of hf-token: ")
    os.write(ours, b"hunter2\n")
    said += _read_until(ours, b"is set")
    assert child.wait(60) == 0
    os.close(ours)
    assert moor.value == b"hunter2"
    assert b"hunter2" not in said


def _on_this_terminal() -> None:
    """Its standard input is its terminal, so that a prompt is made there."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read_until(terminal: int, words: bytes) -> bytes:
    said = b""
    while words not in said:
        said += os.read(terminal, 1024)
    return said


@pytest.mark.parametrize("stdin", [b"", b"\n", b"x" * (64 * 1024 + 1)], ids=len)
def test_what_is_empty_or_too_large_is_not_sent(moor: Moor, stdin: bytes) -> None:
    done = moor("secret", "set", "hf-token", stdin=stdin)
    assert done.returncode == 1
    assert b"65536" in done.stderr
    assert moor.asked == []


def test_a_value_is_no_argument(moor: Moor) -> None:
    assert moor("secret", "set", "hf-token", "hunter2").returncode == 2
    assert moor.asked == []


def test_they_are_listed_and_removed(moor: Moor) -> None:
    listed = moor("secret", "ls").stdout.decode()
    assert "hf-token" in listed
    assert "ada@example.org" in listed
    assert moor("secret", "rm", "hf-token", "--project", "p", "--force").returncode == 0
    assert moor.asked[-1][:2] == ("DELETE", "/secret/hf-token?force=true&project=p")


def test_a_session_is_given_them_by_name(moor: Moor) -> None:
    wanted = ["--secret", "A", "--secret", "b-c=TOKEN", "--secret", "key=/run/secrets/key"]
    assert moor("run", "-d", *wanted, "img").returncode == 0
    assert moor.asked[-1][2]["secrets"] == [
        "A",
        {"name": "b-c", "env": "TOKEN"},
        {"name": "key", "file": "/run/secrets/key"},
    ]


def test_rekey_seals_anew_and_tells_what_is_left(database_url: str, tmp_path: Path) -> None:
    async def one_user() -> None:
        engine = connect(database_url)
        await tenancy.create_user(engine, Seal(OLD), "ada@example.org", "a password")
        await engine.dispose()

    asyncio.run(one_user())
    moor = moor_for("http://127.0.0.1:1", tmp_path)
    settings = {"MOORAGE_DATABASE_URL": database_url, "MOORAGE_PAYLOAD_KEYS": f"{NEW},{OLD}"}
    assert "1 k1" in moor("rekey", "--count", **settings).stdout
    lacking = moor("rekey", **{**settings, "MOORAGE_PAYLOAD_KEYS": NEW})
    assert (lacking.returncode, "no key 'k1'" in lacking.stderr) == (1, True)
    assert "11111" not in lacking.stderr
    done = moor("rekey", **settings)
    assert done.returncode == 0, done.stderr
    assert "k1" not in done.stdout
    assert "no key" not in moor("rekey", **{**settings, "MOORAGE_PAYLOAD_KEYS": NEW}).stderr
    assert moor("rekey").returncode == 1
