"""What the gateway remembers of who asked, what that saves, and that it forgets in time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import event, text

from api.auth.gate import Authentication
from api.auth.memory import Known, Memory
from api.auth.tokens import Tokens
from moorage.domain.errors import Unauthenticated
from moorage.domain.tenancy import Principal
from moorage.seal import Seal
from tests.support.builders import KEYS
from tests.support.gateway import JWT_KEYS, PASSWORD, Gateway, access_key_of, basic, bearer, refused
from tests.support.signed import a_connection, as_backendai, as_moorage, memory_of, told_by, until

ADA = Known(Principal("u", "ada@example.org", "user", "default", "p"))
Say = Callable[[], dict[str, str]]


@pytest.fixture
def now_s() -> list[float]:
    return [1000.0]


@pytest.fixture
def memory(now_s: list[float]) -> Memory:
    """One that listens, on a clock of the test."""
    memory = Memory("postgresql://nowhere", lambda: now_s[0])
    memory.listens = True
    return memory


def test_what_is_remembered_lasts_five_seconds_or_until_it_ends_by_itself(memory: Memory, now_s: list[float]) -> None:
    memory.put("long", ADA, since=memory.forgotten)
    memory.put("short", ADA, since=memory.forgotten, at_most_s=1.0)
    now_s[0] += 0.9
    assert (memory.get("long"), memory.get("short")) == (ADA, ADA)
    now_s[0] += 0.2
    assert (memory.get("long"), memory.get("short")) == (ADA, None)
    now_s[0] += 4
    assert memory.get("long") is None


def test_what_changed_while_it_was_looked_up_is_not_remembered(memory: Memory) -> None:
    before = memory.forgotten
    memory.forget()
    memory.put("key", ADA, since=before)
    assert memory.get("key") is None


def test_nothing_is_remembered_while_changes_can_not_be_heard(memory: Memory) -> None:
    memory.listens = False
    memory.put("key", ADA, since=memory.forgotten)
    assert memory.get("key") is None


def test_so_many_are_remembered_at_most(memory: Memory) -> None:
    for number in range(5000):
        memory.put(number, ADA, since=memory.forgotten)
    assert sum(memory.get(number) is not None for number in range(5000)) == 4096
    assert memory.get(4999) is ADA


# ---- at the gateway


@pytest.fixture
async def statements(gateway: Gateway) -> AsyncIterator[list[object]]:
    """One entry for each time that the gateway took a connection to the database."""
    await until(lambda: memory_of(gateway.app).listens)
    taken: list[object] = []
    pool = gateway.app.state.parts.engine.sync_engine.pool

    def took(*what: object) -> None:
        taken.append(what)

    event.listen(pool, "checkout", took)
    yield taken
    event.remove(pool, "checkout", took)


async def ways(gateway: Gateway) -> dict[str, Say]:
    """Each way of saying who asks, made anew for each request."""
    answer = await gateway.http.post("/auth/login", json={"email": "ada@example.org", "password": PASSWORD})
    login = bearer(answer.json()["token"])
    wish = {"name": "ci", "permissions": ["*:*"]}
    personal = bearer((await gateway.ask("POST", "/token", wish, gateway.ada)).json()["token"])
    return {
        "key": lambda: gateway.ada,
        "signature": lambda: as_backendai(gateway.ada),
        "login": lambda: login,
        "personal token": lambda: personal,
    }


async def test_whoever_is_remembered_costs_no_sql(gateway: Gateway, statements: list[object]) -> None:
    gate = gateway.app.state.parts.authentication
    for way, say in (await ways(gateway)).items():
        first = await gate.principal(a_connection(say() | {"Host": "gateway"}))
        statements.clear()
        assert await gate.principal(a_connection(say() | {"Host": "gateway"})) == first
        assert statements == [], way


async def test_a_signature_that_counts_once_costs_the_nonce_alone(gateway: Gateway, statements: list[object]) -> None:
    gate = gateway.app.state.parts.authentication
    for taken in (3, 1, 1):  # the key, that it was used, and the nonce
        statements.clear()
        await gate.principal(a_connection(as_moorage(gateway.ada) | {"Host": "gateway"}))
        assert len(statements) == taken


REVOKED: dict[str, str] = {
    "the key is switched off": "UPDATE keypairs SET is_active = false WHERE access_key = '{key}'",
    "the key is gone": "DELETE FROM keypairs WHERE access_key = '{key}'",
    "the user is switched off": "UPDATE users SET status = 'inactive' WHERE email = 'ada@example.org'",
    "the domain is switched off": "UPDATE domains SET is_active = false",
}


@pytest.mark.parametrize("change", REVOKED)
async def test_what_is_revoked_is_refused_at_once_at_every_replica(
    gateway: Gateway, replica: Gateway, change: str
) -> None:
    both = (gateway, replica)
    for one in both:
        await until(lambda memory=memory_of(one.app): memory.listens)  # type: ignore[misc]
    said = await ways(gateway)
    for one in both:
        for say in said.values():
            assert (await one.http.get("/session", headers=say())).status_code == 200
    await told(both, lambda: sql(gateway, REVOKED[change].format(key=access_key_of(gateway.ada))))
    dead = ("key", "signature") if "key" in change else said
    for one in both:
        for way in dead:
            refused(await one.http.get("/session", headers=said[way]()), 401, "auth-failed")
        assert (await one.http.get("/session", headers=gateway.root)).status_code == 200


async def test_what_is_taken_from_a_role_is_gone_at_once(gateway: Gateway) -> None:
    await until(lambda: memory_of(gateway.app).listens)
    assert (await gateway.get("/agent", gateway.root)).status_code == 200
    refused(await gateway.ask("PATCH", "/agent/n1", {"schedulable": True}), 404, "unknown-agent")
    await told_by(gateway.app, lambda: sql(gateway, "UPDATE users SET role = 'user' WHERE email = 'root@example.org'"))
    refused(await gateway.ask("PATCH", "/agent/n1", {"schedulable": True}), 403, "forbidden")


async def test_a_lost_connection_forgets_everything_until_there_is_a_new_one(gateway: Gateway) -> None:
    memory = memory_of(gateway.app)
    await until(lambda: memory.listens)
    assert (await gateway.get("/session")).status_code == 200
    before = memory.forgotten
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'LISTEN%moorage_identity%'"
    await sql(gateway, f"{cut} AND datname = current_database()")
    await until(lambda: memory.forgotten > before)
    assert memory.get(gateway.ada["Authorization"]) is None
    assert (await gateway.get("/session")).status_code == 200
    await until(lambda: memory.listens)


# ---- the unknown costs what the wrong costs


class CountingSeal(Seal):
    opened = 0

    def open(self, sealed: bytes) -> bytes:
        self.opened += 1
        return super().open(sealed)


async def test_an_unknown_key_takes_the_same_steps_as_a_wrong_secret(
    gateway: Gateway, statements: list[object]
) -> None:
    engine = gateway.app.state.parts.engine
    seal = CountingSeal(KEYS)
    gate = Authentication(engine, seal, Tokens(engine, JWT_KEYS), memory_of(gateway.app))
    await gate.principal(a_connection(as_backendai(gateway.ada) | {"Host": "gateway"}))  # ada's secret is remembered
    steps, words = set(), set()
    for access_key in (access_key_of(gateway.ada), access_key_of(gateway.bob), "AKIANOBODY"):
        who = basic(access_key, "wrong")
        for headers in (who, as_backendai(who), as_moorage(who)):
            seal.opened, statements[:] = 0, []
            with pytest.raises(Unauthenticated) as refusal:
                await gate.principal(a_connection(headers | {"Host": "gateway"}))
            steps.add((seal.opened, len(statements)))
            words.add(refusal.value.message)
    assert steps == {(1, 1)}
    assert len(words) == 1


async def test_an_unknown_token_takes_the_same_steps_as_a_wrong_one(gateway: Gateway, statements: list[object]) -> None:
    gate = gateway.app.state.parts.authentication
    token = (await ways(gateway))["personal token"]()["Authorization"]
    for wrong in (f"{token}x", token.replace("_pat_", "_pat_x")):
        statements.clear()
        with pytest.raises(Unauthenticated):
            await gate.principal(a_connection({"Authorization": wrong}))
        assert len(statements) == 1


# ---- tokens from log-in are somebody else's to verify


@dataclass
class FakeLogins:
    asked: list[str] = field(default_factory=list)

    async def by_token(self, token: str) -> Principal:
        self.asked.append(token)
        if token != "good":
            raise Unauthenticated("the token is not valid; log in again")
        return replace(ADA.principal, addresses=("127.0.0.1",))

    def left_s(self, token: str) -> float:
        return 60.0


async def test_whoever_verifies_log_ins_is_asked_once_for_a_good_token(gateway: Gateway, memory: Memory) -> None:
    logins = FakeLogins()
    gate = Authentication(gateway.engine, Seal(KEYS), logins, memory)
    for word in ("Bearer good", "Bearer good", "bearer  good "):
        assert (await gate.principal(a_connection({"Authorization": word}))).email == "ada@example.org"
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await gate.principal(a_connection(bearer("bad")))
    assert logins.asked == ["good", "good", "bad", "bad"]


async def sql(gateway: Gateway, statement: str) -> None:
    async with gateway.engine.begin() as connection:
        await connection.execute(text(statement))


async def told(gateways: tuple[Gateway, ...], change: Callable[[], Awaitable[object]]) -> None:
    """As `told_by`, for several."""
    memories = [memory_of(one.app) for one in gateways]
    before = [memory.forgotten for memory in memories]
    await change()
    await until(lambda: all(memory.forgotten > seen for memory, seen in zip(memories, before, strict=True)))
