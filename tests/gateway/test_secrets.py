"""Secrets over HTTP: who may write, list and use them, and that none comes back."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from sqlalchemy import text

from moorage.db import ledger
from moorage.db.tenancy import DEFAULT_PROJECT
from moorage.domain.ids import new_id
from moorage.domain.session import KernelSpec
from moorage.seal import Seal
from tests.support.builders import KEYS
from tests.support.gateway import Gateway, refused

VALUE = "hunter2-hunter2"
PROJECT = "default/default"


async def put(gateway: Gateway, name: str, value: str = VALUE, who: dict[str, str] | None = None, **more: Any) -> Any:
    answer = await gateway.ask("PUT", f"/secret/{name}", {"value": value, **more}, who or gateway.ada)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


async def names(gateway: Gateway, who: dict[str, str] | None = None) -> list[tuple[str, str]]:
    items = (await gateway.get("/secret", who)).json()["items"]
    return [(one["owner"], one["name"]) for one in items]


async def make_admin(gateway: Gateway, email: str, role: str = "project-admin") -> None:
    async with gateway.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO role_assignments (id, user_id, role, scope_kind, scope_id, granted_by)"
                " SELECT :id, u.id, :role, 'project', :project, 'test' FROM users u WHERE u.email = :email"
            ),
            {"id": new_id(), "role": role, "project": DEFAULT_PROJECT, "email": email},
        )


async def specs_of(gateway: Gateway, session_id: str) -> list[KernelSpec]:
    """As the scheduler makes them when it places the session."""
    seal = Seal(KEYS)
    async with gateway.engine.connect() as connection:
        rows = await connection.execute(
            text(
                f"SELECT {ledger.SESSION_COLUMNS} FROM sessions s JOIN users u ON u.id = s.user_id"
                " JOIN projects p ON p.id = s.project_id WHERE s.id = :id"
            ),
            {"id": session_id},
        )
        row = dict(rows.mappings().one())
    return ledger.kernel_specs(row, {kernel["id"]: "n1" for kernel in row["kernels"]}, {}, seal, {})


async def spec_of(gateway: Gateway, session_id: str) -> KernelSpec:
    [spec] = await specs_of(gateway, session_id)
    return spec


async def audited(gateway: Gateway) -> list[dict[str, Any]]:
    async with gateway.engine.connect() as connection:
        rows = await connection.execute(text("SELECT record FROM audit WHERE entity = 'secret' ORDER BY seq"))
        return [json.loads(record) for record in rows.scalars()]


async def test_a_secret_is_listed_by_name_and_never_shown(gateway: Gateway) -> None:
    made = await gateway.ask("PUT", "/secret/hf-token", {"value": VALUE}, gateway.ada)
    assert made.status_code == 201
    assert VALUE not in made.text
    shown = made.json()
    assert {key: shown[key] for key in ("name", "scope", "owner", "created_by")} == {
        "name": "hf-token", "scope": "user", "owner": "ada@example.org", "created_by": "ada@example.org",
    }  # fmt: skip
    assert (await gateway.get("/secret")).json()["items"] == [shown]
    assert await names(gateway, gateway.bob) == []


async def test_a_second_value_replaces_the_first(gateway: Gateway) -> None:
    first = await put(gateway, "TOKEN", "one")
    again = await gateway.ask("PUT", "/secret/TOKEN", {"value": "two"}, gateway.ada)
    assert again.status_code == 200
    assert again.json()["modified_at"] > first["modified_at"]
    session = await gateway.submitted(secrets=["TOKEN"])
    assert (await spec_of(gateway, session["id"])).env == {"TOKEN": "two"}


async def test_it_is_sealed_at_rest_and_in_no_record_of_the_audit(gateway: Gateway) -> None:
    await put(gateway, "TOKEN")
    await put(gateway, "TOKEN", VALUE + "2")
    await gateway.ask("DELETE", "/secret/TOKEN", who=gateway.ada)
    records = await audited(gateway)
    assert [one["operation"] for one in records] == ["secret:create", "secret:update", "secret:delete"]
    assert VALUE not in json.dumps(records)
    await put(gateway, "TOKEN")
    async with gateway.engine.connect() as connection:
        rows = await connection.execute(text("SELECT value FROM secrets"))
        [value] = [bytes(one) for one in rows.scalars()]
    assert VALUE.encode() not in value
    assert Seal(KEYS).open(value) == VALUE.encode()


@pytest.mark.parametrize("project", [PROJECT, DEFAULT_PROJECT, "default"])
async def test_a_projects_secret_is_written_by_its_admins_and_used_by_its_members(
    gateway: Gateway, project: str
) -> None:
    await make_admin(gateway, "bob@example.org")
    await put(gateway, "shared-key", who=gateway.bob, project=project)
    assert await names(gateway) == [(PROJECT, "shared-key")]
    session = await gateway.submitted(secrets=["shared-key"])
    assert (await spec_of(gateway, session["id"])).files == {
        "/run/secrets/shared-key": base64.b64encode(VALUE.encode()).decode()
    }
    refused(
        await gateway.ask("PUT", "/secret/shared-key", {"value": "x", "project": project}, gateway.ada),
        403,
        "forbidden",
    )
    refused(await gateway.ask("DELETE", f"/secret/shared-key?project={project}", who=gateway.ada), 403, "forbidden")
    refused(await gateway.ask("PUT", "/secret/new", {"value": "x", "project": project}, gateway.ada), 403, "forbidden")


async def test_a_project_that_one_does_not_see_is_none(gateway: Gateway) -> None:
    async with gateway.engine.begin() as connection:
        await connection.execute(text("INSERT INTO domains (name) VALUES ('other')"))
        await connection.execute(
            text("INSERT INTO projects (id, name, domain) VALUES (:id, 'hidden', 'other')"), {"id": new_id()}
        )
    for project in ("other/hidden", "other/nothing", "hidden", "' OR 1=1 --", "%"):
        body = {"value": "x", "project": project}
        refused(await gateway.ask("PUT", "/secret/TOKEN", body, gateway.ada), 404, "unknown-project")
    assert (await gateway.ask("PUT", "/secret/TOKEN", {"value": "x", "project": "other/hidden"})).status_code == 201
    assert await names(gateway) == []


async def test_somebody_elses_secret_is_unknown_to_me(gateway: Gateway) -> None:
    await put(gateway, "TOKEN", who=gateway.bob)
    problem = refused(await gateway.submit(secrets=["TOKEN"]), 400, "unknown-secret")
    assert problem["data"] == {"field": "secrets", "name": "TOKEN"}
    refused(await gateway.ask("DELETE", "/secret/TOKEN", who=gateway.ada), 404, "unknown-secret")
    assert (await gateway.get("/session")).json()["total"] == 0
    assert await names(gateway, gateway.bob) == [("bob@example.org", "TOKEN")]


async def test_ones_own_secret_goes_before_the_projects(gateway: Gateway) -> None:
    await make_admin(gateway, "ada@example.org")
    await put(gateway, "TOKEN", "of the project", project=PROJECT)
    await put(gateway, "TOKEN", "mine")
    session = await gateway.submitted(secrets=["TOKEN"])
    assert (await spec_of(gateway, session["id"])).env == {"TOKEN": "mine"}
    theirs = await gateway.submitted(gateway.bob, secrets=["TOKEN"])
    assert (await spec_of(gateway, theirs["id"])).env == {"TOKEN": "of the project"}


async def test_secrets_go_where_they_are_wanted_beside_the_environment(gateway: Gateway) -> None:
    binary = bytes(range(256))
    await put(gateway, "hf-token")
    await put(gateway, "key", base64.b64encode(binary).decode(), encoding="base64")
    session = await gateway.submitted(
        env={"PLAIN": "1"},
        secrets=[
            {"name": "hf-token", "env": "HF_TOKEN"},
            {"name": "hf-token"},
            {"name": "key", "file": "/home/me/.key"},
        ],
    )
    spec = await spec_of(gateway, session["id"])
    assert spec.env == {"PLAIN": "1", "HF_TOKEN": VALUE}
    assert {path: base64.b64decode(content) for path, content in spec.files.items()} == {
        "/run/secrets/hf-token": VALUE.encode(),
        "/home/me/.key": binary,
    }
    assert VALUE not in repr(spec)
    assert VALUE not in json.dumps(session)
    assert VALUE not in (await gateway.get(f"/session/{session['id']}")).text


async def test_each_kernel_of_a_gang_gets_them(gateway: Gateway) -> None:
    await put(gateway, "TOKEN")
    session = await gateway.submitted(secrets=["TOKEN"], cluster_size=2)
    assert [spec.env["TOKEN"] for spec in await specs_of(gateway, session["id"])] == [VALUE] * 2


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"secrets": ["TOKEN", "TOKEN"]}, "two are wanted as env TOKEN"),
        ({"secrets": ["TOKEN"], "env": {"TOKEN": "x"}}, "in env too"),
        ({"secrets": [{"name": "TOKEN", "env": "A-B"}]}, "not a variable's name"),
        ({"secrets": [{"name": "TOKEN", "env": ""}]}, "not a variable's name"),
        ({"secrets": [{"name": "TOKEN", "env": "A", "file": "/x"}]}, "list it twice"),
        ({"secrets": [{"name": "TOKEN", "file": "run/x"}]}, "not an absolute path"),
        ({"secrets": [{"name": "TOKEN", "file": "/run/../etc/x"}]}, "not an absolute path"),
        ({"secrets": [{"name": "TOKEN", "file": "/run/./x"}]}, "not an absolute path"),
        ({"secrets": [{"name": "TOKEN", "file": "/run//x"}]}, "not an absolute path"),
        ({"secrets": [{"name": "TOKEN", "file": "/run/x/"}]}, "not an absolute path"),
        ({"secrets": [{"name": "TOKEN", "file": "/"}]}, "not an absolute path"),
        ({"secrets": [{"name": "TOKEN", "file": "/run/x\n"}]}, "not an absolute path"),
        ({"secrets": [{"name": "TOKEN", "file": "/" + "a/" * 600 + "b"}]}, "not an absolute path"),
        ({"secrets": [{"name": "TOKEN", "file": "/proc/self/environ"}]}, "nothing can lie"),
        ({"secrets": [{"name": "TOKEN", "file": "/dev/shm"}]}, "nothing can lie"),
        ({"secrets": [{"name": "TOKEN", "file": "/a"}, {"name": "TOKEN", "file": "/a/b"}]}, "/a/b lies within /a"),
        ({"secrets": [{"name": "TOKEN", "value": "x"}]}, "no such field"),
        ({"secrets": [{"env": "X"}]}, "name"),
        ({"secrets": [{"name": "TOKEN", "file": f"/{n}"} for n in range(33)]}, "at most 32"),
        ({"secrets": "TOKEN"}, "list"),
    ],
    ids=str,
)
async def test_wrong_wishes_are_refused_and_submit_nothing(gateway: Gateway, wish: dict[str, Any], said: str) -> None:
    await put(gateway, "TOKEN")
    assert said in refused(await gateway.submit(**wish), 400, "invalid-api-params")["title"]
    assert (await gateway.get("/session")).json()["total"] == 0


@pytest.mark.parametrize("name", ["1x", "-x", "a b", "a/b", "x" * 129, "a%00", "é"])
async def test_what_is_no_name_is_refused(gateway: Gateway, name: str) -> None:
    answer = await gateway.ask("PUT", f"/secret/{name}", {"value": VALUE}, gateway.ada)
    assert answer.status_code in (400, 404)
    assert VALUE not in answer.text


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"value": "x" * (64 * 1024 + 1)}, 413, "secret-too-large"),
        ({"value": "hunter2-hunter2", "encoding": "base64"}, 400, "invalid-api-params"),
        ({"value": "hunter2-hunter2\0"}, 400, "invalid-api-params"),
        ({"value": ["hunter2-hunter2"]}, 400, "invalid-api-params"),
        ({"value": ""}, 400, "invalid-api-params"),
        ({"value": "hunter2-hunter2", "encoding": "hunter2-hunter2"}, 400, "invalid-api-params"),
        ({"value": "x", "hunter": "hunter2-hunter2"}, 400, "invalid-api-params"),
        ({}, 400, "invalid-api-params"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_a_refusal_never_quotes_the_value(gateway: Gateway, body: dict[str, Any], status: int, code: str) -> None:
    answer = await gateway.ask("PUT", "/secret/TOKEN", body, gateway.ada)
    refused(answer, status, code)
    assert VALUE not in answer.text
    assert await names(gateway) == []


async def test_bytes_that_are_no_text_can_be_a_file_but_no_variable(gateway: Gateway) -> None:
    await put(gateway, "key", base64.b64encode(b"\xff\0").decode(), encoding="base64")
    refused(await gateway.submit(secrets=[{"name": "key", "env": "KEY"}]), 400, "secret-not-text")
    await gateway.submitted(secrets=[{"name": "key", "file": "/key"}])


async def test_more_than_a_message_carries_is_refused_when_submitted(gateway: Gateway) -> None:
    await put(gateway, "big", "x" * 64 * 1024)
    problem = refused(await gateway.submit(secrets=["big"], cluster_size=17), 400, "secrets-too-large")
    assert problem["data"]["most"] == 1024 * 1024
    await gateway.submitted(secrets=[{"name": "big", "file": "/big"}], cluster_size=16)
    await put(gateway, "wide", "\x01" * 64 * 1024)  # six times as long in a message
    refused(await gateway.submit(secrets=["wide"], cluster_size=3), 400, "secrets-too-large")
    await gateway.submitted(secrets=["wide"], cluster_size=2)


async def test_a_secret_in_use_is_not_removed_unless_forced(gateway: Gateway) -> None:
    await put(gateway, "TOKEN")
    session = await gateway.submitted(secrets=["TOKEN"], name="train-1")
    problem = refused(await gateway.ask("DELETE", "/secret/TOKEN", who=gateway.ada), 409, "secret-in-use")
    assert problem["data"] == {"sessions": ["train-1"], "count": 1}
    assert (await gateway.ask("DELETE", "/secret/TOKEN?force=true", who=gateway.ada)).status_code == 204
    assert (await spec_of(gateway, session["id"])).env == {}
    assert await names(gateway) == []


async def test_sessions_of_others_are_counted_and_not_named(gateway: Gateway) -> None:
    await gateway.ask("PUT", "/secret/shared", {"value": VALUE, "project": PROJECT})
    await gateway.submitted(gateway.bob, secrets=["shared"], name="bobs-own")
    await make_admin(gateway, "ada@example.org", role="secrets-only")
    async with gateway.engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO roles (name, permissions) VALUES ('secrets-only', '{secret:read,secret:delete}')")
        )
    problem = refused(
        await gateway.ask("DELETE", f"/secret/shared?project={PROJECT}", who=gateway.ada), 409, "secret-in-use"
    )
    assert problem["data"] == {"sessions": [], "count": 1}
    assert "bobs-own" not in problem["title"]


async def test_an_ended_session_holds_no_secret(gateway: Gateway) -> None:
    await put(gateway, "TOKEN")
    session = await gateway.submitted(secrets=["TOKEN"])
    await gateway.end(session["id"])
    assert (await gateway.ask("DELETE", "/secret/TOKEN", who=gateway.ada)).status_code == 204


async def test_a_removal_and_a_submit_at_once_leave_no_session_without_its_secret(gateway: Gateway) -> None:
    for number in range(5):
        await put(gateway, "TOKEN")
        made, gone = await asyncio.gather(
            gateway.submit(secrets=["TOKEN"], name=f"race-{number}"),
            gateway.ask("DELETE", "/secret/TOKEN", who=gateway.ada),
        )
        assert (made.status_code, gone.status_code) in ((201, 409), (400, 204))
        if made.status_code == 201:
            assert (await spec_of(gateway, made.json()["id"])).env == {"TOKEN": VALUE}
            await gateway.end(made.json()["id"])


async def test_many_first_values_at_once_make_one_secret(gateway: Gateway) -> None:
    answers = await asyncio.gather(
        *(gateway.ask("PUT", "/secret/TOKEN", {"value": str(n)}, gateway.ada) for n in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert await names(gateway) == [("ada@example.org", "TOKEN")]
