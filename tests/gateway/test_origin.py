"""From where a request comes, whatever it says itself; and the id that follows it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from api.main import build
from api.origin import client_address, parse_address, parse_networks
from moorage import log
from moorage.db.engine import reading
from moorage.domain.errors import InvalidRequest
from moorage.settings import Settings
from tests.support.builders import KEYS
from tests.support.gateway import JWT_KEYS, Gateway, RecordedLives

PROXIES = parse_networks("10.0.0.0/8, 2001:db8::/32,192.0.2.7")


def address(peer: str | None, *forwarded: str, trusted: bool = True) -> str:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    scope = {"client": (peer, 4711) if peer is not None else None, "headers": headers}
    return client_address(scope, PROXIES if trusted else [])


def test_without_a_trusted_proxy_the_peer_is_the_client() -> None:
    assert address("203.0.113.5") == "203.0.113.5"
    assert address("203.0.113.5", "198.51.100.1") == "203.0.113.5"
    assert address("10.0.0.1", "198.51.100.1", trusted=False) == "10.0.0.1"
    assert address("127.0.0.1", "198.51.100.1") == "127.0.0.1"
    assert address(None, "198.51.100.1") == ""


def test_behind_trusted_proxies_it_is_the_last_address_that_is_none_of_them() -> None:
    assert address("10.0.0.1", "198.51.100.1") == "198.51.100.1"
    assert address("10.0.0.1", "198.51.100.1, 10.0.0.9, 192.0.2.7") == "198.51.100.1"
    assert address("2001:db8::1", "198.51.100.1") == "198.51.100.1"
    assert address("10.0.0.1", "10.0.0.2, 10.0.0.3") == "10.0.0.2"
    assert address("10.0.0.1") == "10.0.0.1"


def test_what_a_client_wrote_to_the_left_is_never_reached() -> None:
    assert address("10.0.0.1", "127.0.0.1, 10.9.9.9, 198.51.100.1") == "198.51.100.1"
    assert address("10.0.0.1", "127.0.0.1", "10.9.9.9", "198.51.100.1, 10.0.0.2") == "198.51.100.1"
    assert address("10.0.0.1", "198.51.100.1", "10.0.0.2") == "198.51.100.1"


@pytest.mark.parametrize(
    "nonsense",
    ["unknown", "", " ", "1.2.3", "1.2.3.4.5", "010.0.0.1", "1.2.3.4:", "1.2.3.4:port", "[::1", "[::1]80", "_hidden",
     "1.2.3.4\r\nX-Admin: 1", "1.2.3.4 5.6.7.8", "0x7f000001", "2130706433", "\xff", "10.0.0.1;for=1.2.3.4",
     "1.2.3.4:²"],
)  # fmt: skip
def test_nonsense_ends_the_walk_at_the_last_good_address(nonsense: str) -> None:
    assert parse_address(nonsense) is None
    if "\xff" not in nonsense and "²" not in nonsense:
        assert address("10.0.0.1", f"198.51.100.1, {nonsense}, 10.0.0.2") == "10.0.0.2"
    assert address("10.0.0.1", f"198.51.100.1, {nonsense}") == "10.0.0.1"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("198.51.100.1:8080", "198.51.100.1"),
        ("[2001:db9::1]:443", "2001:db9::1"),
        ("[2001:db9::1]", "2001:db9::1"),
        ("2001:DB9:0:0::1", "2001:db9::1"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("[::ffff:198.51.100.1]:1", "198.51.100.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%eth0\r\nx", "fe80::1"),
        ("\t198.51.100.1 ", "198.51.100.1"),
    ],
)
def test_an_address_is_itself_however_it_is_written(written: str, meant: str) -> None:
    assert address("10.0.0.1", written) == meant


def test_a_mapped_peer_is_recognised_as_the_proxy_that_it_is() -> None:
    assert address("::ffff:10.0.0.1", "198.51.100.1") == "198.51.100.1"
    assert address("fe80::1%eth0") == "fe80::1"


def test_a_list_of_proxies_that_is_none_keeps_the_gateway_from_starting() -> None:
    for words in ("10.0.0.0/33", "proxy.example.org", "10.0.0.1/8", "*"):
        with pytest.raises(InvalidRequest, match="MOORAGE_TRUSTED_PROXIES"):
            parse_networks(words)
    assert parse_networks("") == []


@asynccontextmanager
async def served_to(database_url: str, peer: str, proxies: str) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(
        database_url=database_url, payload_keys=KEYS, jwt_keys=JWT_KEYS, dataplane_key="d" * 32, trusted_proxies=proxies
    )
    app = build(settings, lives=RecordedLives())
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(peer, 1)), base_url="http://gateway") as http,
    ):
        yield http


async def addresses(engine: AsyncEngine) -> list[str]:
    async with reading(engine) as connection:
        return [row["address"] for row in await connection.fetch("SELECT address FROM audit ORDER BY seq")]


@pytest.mark.parametrize(("proxies", "seen"), [("10.0.0.0/8", "198.51.100.1"), ("", "10.0.0.1")])
async def test_the_audit_has_the_address_of_the_client(
    database_url: str, engine: AsyncEngine, proxies: str, seen: str
) -> None:
    async with served_to(database_url, "10.0.0.1", proxies) as http:
        headers = {"X-Forwarded-For": "127.0.0.1, 198.51.100.1", "X-Real-IP": "1.1.1.1", "Forwarded": "for=1.1.1.1"}
        await http.post("/session", json={}, headers=headers)
    assert await addresses(engine) == [seen]


async def test_two_clients_behind_a_proxy_do_not_take_each_others_requests(database_url: str) -> None:
    async with served_to(database_url, "10.0.0.1", "10.0.0.1") as http:
        left = [
            (await http.get("/", headers={"X-Forwarded-For": one})).headers["X-RateLimit-Remaining"]
            for one in ("198.51.100.1", "198.51.100.2", "198.51.100.1")
        ]
    assert left == ["599", "599", "598"]


async def test_a_harmless_request_id_is_kept_and_any_other_replaced(gateway: Gateway) -> None:
    kept = await gateway.http.get("/", headers={"X-Request-Id": "build-42_a.b"})
    assert kept.headers.get_list("X-Request-Id") == ["build-42_a.b"]
    for given in ("", "x" * 65, "a b", "a\r\nb", 'a"b', "ü", "${jndi:ldap://x}"):
        answer = await gateway.http.get("/", headers=[(b"X-Request-Id", given.encode())])
        (new,) = answer.headers.get_list("X-Request-Id")
        assert new != given
        assert len(new) == 32


async def test_each_answer_has_an_id_of_its_own(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(gateway.http.get(path) for path in ("/", "/nowhere", "/session", "/health/live")))
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 4


async def test_an_answer_to_the_unexpected_has_its_id_too(gateway: Gateway) -> None:
    async def broken() -> None:
        raise RuntimeError("bang")

    gateway.app.state.parts.lives.is_reachable = broken
    transport = httpx.ASGITransport(gateway.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        answer = await http.get("/health/ready", headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (500, "mine")


def test_lines_of_the_log_stay_lines_whatever_strangers_write(capsys: pytest.CaptureFixture[str]) -> None:
    forged = 'x\r\n{"level":"info","event":"all is well"}\x1b[2J\u2028\x00'
    for form in ("json", "console"):
        log.configure("INFO", form)
        with log.bound(request_id="r1"):
            log.get("t").bind(agent=forged).warning(forged, path=forged)
        written = capsys.readouterr().err
        assert written.count("\n") == 1
        assert written.endswith("\n")
        assert not set(written[:-1]) & set("\r\x00\u2028")
        assert "\x1b[2J" not in written
        assert "r1" in written
    structlog.reset_defaults()


def test_other_libraries_cannot_begin_a_line_either() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "bad\r\nERROR root: %s", ("forged\n",), None)
    assert "\n" not in log._OneLine("%(message)s").format(record)
