"""Personal access tokens: what they permit, how long, and that nobody keeps them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from moorage.db import tenancy, tokens
from moorage.seal import Seal
from tests.support.builders import KEYS
from tests.support.gateway import PASSWORD, WISH, Gateway, basic, bearer, refused
from tests.support.signed import memory_of, told_by


async def made(gateway: Gateway, who: dict[str, str] | None = None, **wish: Any) -> dict[str, Any]:
    body = {"name": "ci", "permissions": ["session:read"], **wish}
    answer = await gateway.ask("POST", "/token", body, who or gateway.ada)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


async def an_admin(gateway: Gateway) -> dict[str, str]:
    keys = await tenancy.create_user(gateway.engine, Seal(KEYS), "rita@example.org", PASSWORD, role="admin")
    return basic(*keys)


async def listed(gateway: Gateway, who: dict[str, str]) -> list[str]:
    return [one["name"] for one in (await gateway.get("/token", who)).json()["items"]]


async def test_a_token_permits_what_was_asked_for_it_and_nothing_else(gateway: Gateway) -> None:
    token = bearer((await made(gateway))["token"])
    session = await gateway.submitted()
    assert (await gateway.get(f"/session/{session['id']}", token)).status_code == 200
    for method, path in (("POST", "/session"), ("DELETE", f"/session/{session['id']}"), ("GET", "/token")):
        answer = await gateway.http.request(method, path, headers=token, json=WISH if method == "POST" else None)
        refused(answer, 403, "forbidden")


async def test_a_token_sees_what_its_user_sees(gateway: Gateway) -> None:
    await gateway.submitted(gateway.bob)
    token = bearer((await made(gateway, permissions=["*:*"]))["token"])
    assert (await gateway.get("/session", token)).json()["total"] == 0
    root = bearer((await made(gateway, gateway.root))["token"])
    assert (await gateway.get("/session", root)).json()["total"] == 1


async def test_stars_stand_for_what_one_holds(gateway: Gateway) -> None:
    token = await made(gateway, permissions=["session:*", "*:read"])
    assert {"session:create", "session:delete", "audit:read"} <= set(token["permissions"])
    assert "domain:read" not in token["permissions"]


REFUSED = [
    (["domain:create"], 403, "forbidden"),
    (["session:read", "user:act-as"], 403, "forbidden"),
    (["domain:*"], 403, "forbidden"),
    (["session:fly"], 400, "unknown-permission"),
    (["sessions"], 400, "unknown-permission"),
    ([], 400, "invalid-api-params"),
]


async def test_nobody_gives_a_token_more_than_he_holds(gateway: Gateway) -> None:
    for permissions, status, code in REFUSED:
        answer = await gateway.ask("POST", "/token", {"name": "ci", "permissions": permissions}, gateway.ada)
        refused(answer, status, code)
    assert await listed(gateway, gateway.ada) == []


async def test_a_token_makes_no_token_with_more_than_itself(gateway: Gateway) -> None:
    first = bearer((await made(gateway, permissions=["session:read", "token:*"]))["token"])
    refused(
        await gateway.ask("POST", "/token", {"name": "2", "permissions": ["session:delete"]}, first), 403, "forbidden"
    )
    second = await made(gateway, first, name="2", permissions=["session:*", "token:read"])
    assert second["permissions"] == ["session:read", "token:read"]


async def test_only_a_hash_of_a_token_is_kept(gateway: Gateway) -> None:
    token = (await made(gateway))["token"]
    secret = token.removeprefix(tokens.PREFIX).partition("_")[2]
    async with gateway.engine.connect() as connection:
        for table in ("tokens", "audit"):
            rows = (await connection.execute(text(f"SELECT x::text FROM {table} x"))).scalars().all()
            assert rows
            assert not any(secret in row or secret.encode().hex() in row for row in rows)
    assert secret not in (await gateway.get("/token")).text


async def test_a_token_ends_when_it_was_said_to(gateway: Gateway) -> None:
    answer = await made(gateway, expires_in_s=3600)
    async with gateway.engine.begin() as connection:
        await connection.execute(text("UPDATE tokens SET expires_at = now() - interval '1 s'"))
    refused(await gateway.get("/session", bearer(answer["token"])), 401, "auth-failed")
    assert await listed(gateway, gateway.ada) == []
    await made(gateway)  # its name is free again


async def test_a_token_lives_a_second_to_a_year(gateway: Gateway) -> None:
    for seconds in (0, -5, 366 * 86400, "inf", None):
        body = {"name": "ci", "permissions": ["session:read"], "expires_in_s": seconds}
        refused(await gateway.ask("POST", "/token", body, gateway.ada), 400, "invalid-api-params")


async def test_two_live_tokens_of_a_user_have_different_names(gateway: Gateway) -> None:
    first = await made(gateway)
    refused(
        await gateway.ask("POST", "/token", {"name": "ci", "permissions": ["*:*"]}, gateway.ada), 409, "token-exists"
    )
    await made(gateway, gateway.bob)
    assert (await gateway.ask("DELETE", f"/token/{first['id']}", who=gateway.ada)).status_code == 204
    await made(gateway)


async def test_a_revoked_token_is_refused_and_revoking_again_is_no_error(gateway: Gateway) -> None:
    token = await made(gateway)
    assert (await gateway.get("/session", bearer(token["token"]))).status_code == 200

    async def revoke() -> None:
        assert (await gateway.ask("DELETE", f"/token/{token['id']}", who=gateway.ada)).status_code == 204

    await told_by(gateway.app, revoke)
    refused(await gateway.get("/session", bearer(token["token"])), 401, "auth-failed")
    await revoke()
    async with gateway.engine.connect() as connection:
        operations = await connection.scalars(text("SELECT operation FROM audit WHERE entity = 'token' ORDER BY seq"))
        assert operations.all() == ["token:create", "token:delete", "token:delete"]


async def test_a_wrong_token_says_nothing(gateway: Gateway) -> None:
    token = str((await made(gateway))["token"])
    token_id = token.removeprefix(tokens.PREFIX).partition("_")[0]
    for forged in (
        token[:-1] + ("A" if token[-1] != "A" else "B"),
        token.replace("_pat_", "_pat_x", 1),
        f"{tokens.PREFIX}{token_id}",
        f"{tokens.PREFIX}{token_id}_",
        tokens.PREFIX,
    ):
        problem = refused(await gateway.get("/session", bearer(forged)), 401, "auth-failed")
        assert problem["title"] == "the token is not valid; make a new one"


async def test_administrators_list_and_revoke_tokens_of_those_below(gateway: Gateway) -> None:
    rita = await an_admin(gateway)
    token, roots = await made(gateway), await made(gateway, gateway.root, name="roots")
    assert sorted(await listed(gateway, rita)) == ["ci", "roots"]
    page = (await gateway.get("/token", rita, limit="1", offset="1")).json()
    assert (page["total"], [one["name"] for one in page["items"]]) == (2, ["ci"])
    assert await listed(gateway, gateway.bob) == []
    refused(await gateway.ask("DELETE", f"/token/{token['id']}", who=gateway.bob), 404, "unknown-token")
    refused(await gateway.ask("DELETE", f"/token/{roots['id']}", who=rita), 403, "forbidden")
    assert (await gateway.ask("DELETE", f"/token/{token['id']}", who=rita)).status_code == 204
    assert await listed(gateway, gateway.root) == ["roots"]


async def test_the_last_use_is_written_once_a_minute(gateway: Gateway) -> None:
    token = bearer((await made(gateway))["token"])

    async def use() -> object:
        memory_of(gateway.app).forget()
        assert (await gateway.get("/session", token)).status_code == 200
        async with gateway.engine.connect() as connection:
            return await connection.scalar(text("SELECT last_used_at FROM tokens"))

    first = await use()
    assert first is not None
    assert await use() == first
    async with gateway.engine.begin() as connection:
        await connection.execute(text("UPDATE tokens SET last_used_at = now() - interval '61 s'"))
    assert (await gateway.get("/token")).json()["items"][0]["last_used_at"] is not None
    later = await use()
    assert later is not None
    assert str(later) > str(first)


async def test_a_user_has_so_many_tokens_at_most(gateway: Gateway) -> None:
    await made(gateway)
    async with gateway.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO tokens (id, user_id, name, hash, permissions, expires_at) SELECT 't' || n, t.user_id,"
                " 'n' || n, t.hash, t.permissions, t.expires_at FROM tokens t, generate_series(2, 100) n"
            )
        )
    answer = await gateway.ask("POST", "/token", {"name": "one", "permissions": ["*:*"]}, gateway.ada)
    refused(answer, 409, "too-many-tokens")
