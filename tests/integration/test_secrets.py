"""Secrets go through a whole cluster on Docker, to the sessions that need them and nowhere else.

Buys: the proof that nothing leaks, and that the search for leaks would find one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moorage.cli.profile import read_toml
from tests.support.cluster import Cluster
from tests.support.leaks import everything, found_in

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def a_secret() -> str:
    """With what URLs and base64 write otherwise."""
    return f"{secrets.token_hex(12)}/+?&={secrets.token_hex(12)}"


@pytest.fixture(scope="module")
def planted() -> dict[str, str]:
    names = (
        "variable",
        "token",
        "key",
        "shared",
        "wrong password",
        "refused",
        "of a failed session",
        "of a killed one",
    )
    return {name: a_secret() for name in names}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(Path(tmp_path_factory.mktemp("cluster")), runtime="docker")
    yield cluster
    cluster.close()


def put(cluster: Cluster, name: str, value: str, **more: str) -> None:
    answer = cluster.request("PUT", f"/secret/{name}", json={"value": value, **more})
    assert answer["http_status"] == 201, answer


def checks(**expected: str) -> str:
    """A command that prints OK if each expression has the value; it knows the value's digest only."""
    tests = [
        f'[ "$({read} | busybox sha256sum | head -c 64)" = {hashlib.sha256(value.encode()).hexdigest()} ]'
        for read, value in expected.items()
    ]
    return " && ".join([*tests, "echo OK"])


def in_memory() -> list[bytes]:
    """The secret files of all agents of this machine."""
    return [path.read_bytes() for path in Path("/dev/shm").glob("moorage-[0-9]*/*/*") if path.is_file()]


def live_through_much(cluster: Cluster, planted: dict[str, str]) -> list[Any]:
    """Sessions that succeed, fail and are killed, and requests that are refused. Returns all that the API answered."""
    put(cluster, "token", planted["token"])
    put(cluster, "key", base64.b64encode(planted["key"].encode()).decode(), encoding="base64")
    put(cluster, "shared", planted["shared"], project="default/default")
    command = checks(**{
        'printf %s "$PLAIN"': planted["variable"],
        'printf %s "$TOKEN"': planted["token"],
        "cat /run/secrets/key": planted["key"],
        "cat /opt/shared": planted["shared"],
    })  # fmt: skip
    wanted = [{"name": "token", "env": "TOKEN"}, {"name": "key", "file": "/run/secrets/key"},
              {"name": "shared", "file": "/opt/shared"}]  # fmt: skip
    works = cluster.submit("sh", "-c", command, env={"PLAIN": planted["variable"]}, secrets=wanted)
    failing: dict[str, Any] = {"env": {"HIDDEN": planted["of a failed session"]}}
    no_image = cluster.submit("true", image="127.0.0.1:1/missing/image:1", **failing)
    no_start = cluster.submit("true", secrets=[{"name": "key", "file": "/bin"}], **failing)
    killed = cluster.submit(
        "sleep", "600", name="will-be-killed", env={"HIDDEN": planted["of a killed one"]}, secrets=wanted
    )
    cluster.wait_for(killed, "RUNNING")
    assert planted["key"].encode() in in_memory()
    read = cluster.request("POST", f"/session/{killed}/exec", json={"command": ["cat", "/run/secrets/key"]})
    assert read["stdout"] == planted["key"]
    # Refused with its own words, which the caller alone may hear.
    cluster.request("POST", f"/session/{killed}/exec", json={"command": ["no-such-program", planted["refused"]]})
    said = [
        cluster.request("DELETE", "/secret/token"),
        cluster.request("PUT", "/secret/x", json={"value": planted["refused"], "encoding": "base64"}),
        cluster.request("PUT", "/secret/x", json={"value": planted["refused"], planted["refused"][:4]: 1}),
        cluster.request("PUT", "/secret/x", json={"value": planted["refused"] + "\0"}),
        cluster.request("POST", "/session", json={"image": "x", "env": {"A": planted["refused"] * 2000}}),
        cluster.request("POST", "/session", json={"image": "x", "env": {"A": planted["refused"] + "\0"}}),
        cluster.request("POST", "/auth/login", json={"email": "a@b.c", "password": planted["wrong password"]}),
        cluster.request("POST", "/auth/login", json={"email": "admin", "password": [planted["wrong password"]]}),
    ]
    assert [one["http_status"] for one in said] == [409, 400, 400, 400, 400, 400, 401, 400]
    cluster.request("DELETE", f"/session/{killed}", params={"forced": "true"})
    ended = {
        session: cluster.wait_for(session, "TERMINATED", "CANCELLED", "ERROR")
        for session in (works, no_image, no_start, killed)
    }
    assert (ended[works]["result"], ended[no_image]["reason"]) == ("SUCCESS", "image-pull-failed")
    assert (ended[no_start]["reason"], ended[killed]["reason"]) == ("failed-to-create", "force-terminated")
    for session in ended:
        said += [cluster.request("GET", f"/session/{session}{what}") for what in ("", "/events", "/why")]
    said += [cluster.request("GET", path) for path in ("/secret", "/session?all=true", "/resource", "/agent")]
    assert cluster.moor("logs", works).stdout == "OK\n"
    return said


def test_no_secret_is_anywhere_but_where_it_is_needed(cluster: Cluster, planted: dict[str, str]) -> None:
    said = live_through_much(cluster, planted)
    admin, keys = read_toml(cluster.folder / "admin.toml"), read_toml(cluster.folder / "keys.toml")
    all_keys = {f"key {name}": value.rpartition(":")[2] for name, value in keys.items() if len(value) >= 24}
    wanted = {**planted, **all_keys, "password": admin["password"], "secret key": admin["secret_key"]}
    assert len(wanted) >= len(planted) + 5
    places = asyncio.run(everything(cluster.folder))
    kinds = {place.split()[0] for place, _ in places}
    assert kinds == {"history", "table", "file", "arguments"}
    assert any(place.startswith("file temporal.db") for place, _ in places)
    assert any(place.startswith("file logs/") for place, _ in places)
    assert sum(place.startswith("history of session-") for place, _ in places) == 4
    answers = [(f"answer {number}", repr(one).encode()) for number, one in enumerate(said)]
    assert found_in(wanted, [*places, *answers]) == []
    assert not set(planted.values()) & {content.decode(errors="replace") for content in in_memory()}


def test_the_search_finds_what_is_really_there(cluster: Cluster) -> None:
    leaked = {"name": f"name-{secrets.token_hex(12)}", "words": a_secret()}
    session = cluster.submit("sh", "-c", f"echo '{leaked['words']}'", name=leaked["name"])
    cluster.wait_for(session, "TERMINATED")
    found = found_in(leaked, asyncio.run(everything(cluster.folder)))
    for place in ("history of session-", "table sessions", "file temporal.db", "file postgres/"):
        assert any(one.startswith(f"name is in {place}") for one in found), (place, found)
    assert "words is in table sessions" in found
    assert not any(one.startswith("words is in history") for one in found)
    assert any(one.startswith("words is in file") and one.endswith(".log") for one in found)


@pytest.mark.parametrize("number", range(6))
def test_the_search_knows_every_form(number: int) -> None:
    secret = a_secret()
    raw = secret.encode()
    written = [
        b"x" + raw + b"y",
        base64.b64encode(b"ab" + raw + b"c"),
        base64.urlsafe_b64encode(b"a" + raw),
        raw.hex().encode(),
        b"q=" + secret.replace("/", "%2F").replace("+", "%2B").replace("?", "%3F").replace("&", "%26")
        .replace("=", "%3D").encode(),
        repr({"a": secret}).encode(),
    ]  # fmt: skip
    assert found_in({"it": secret}, [("there", written[number])]) == ["it is in there"]
    assert found_in({"it": secret}, [("there", base64.b64encode(b"something else of that length"))]) == []
