"""Reads over REST, against the same without authentication, and against bare handlers with the same SQL and JSON."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import subprocess
import uuid
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from moorage.cli.bench.connection import Connection, request
from moorage.cli.bench.own_cluster import OwnCluster, first_word, own_cluster, percentile, process
from moorage.contracts import names
from moorage.domain.errors import MoorageError

_AT_ONCE = 16
_SLICE_S = 1.0
_LIST = "/session?limit=50"
_TRIES = 10


def api(
    seconds: Annotated[int, typer.Option(min=1, max=300, help="How long each side of each read is measured.")] = 10,
    sessions: Annotated[int, typer.Option(min=100, max=100_000, help="Rows; every second one is live.")] = 2000,
) -> None:
    """GET of one session and of a list, against the same without authentication, and bare FastAPI and asyncpg."""
    with own_cluster(runtime="simulated") as cluster:
        ids, user_id = asyncio.run(_fill(cluster, sessions))
        link = f"{cluster.web_ui}/namespaces/default/workflows/{names.session_workflow('')}"
        arguments = [cluster.database_url, link, user_id]
        with (
            process("moorage.cli.bench.bare_api", *arguments, stdout=subprocess.PIPE) as bare,
            process("moorage.cli.bench.open_api", user_id, env=_settings(cluster), stdout=subprocess.PIPE) as opened,
        ):
            sides = _sides(cluster, int(first_word(bare)), int(first_word(opened)))
            asyncio.run(_same_answers(sides, ids[0]))
            measured = _press(_plan(sides, ids, seconds))
    print(json.dumps({read: _figures(measured, read) for read in ("get", "list")}))


def _plan(sides: dict[str, tuple[int, str]], ids: list[str], seconds: int) -> dict[str, Any]:
    slices = max(2, round(seconds / _SLICE_S))
    gets = [f"/session/{one}" for one in ids]
    targets = [
        {
            "name": f"{side}{read}",
            "port": port,
            "requests": [request("GET", path, authorization).decode() for path in paths],
        }
        for read, paths in (("get", gets), ("list", [_LIST]))
        for side, (port, authorization) in sides.items()
    ]
    return {"connections": _AT_ONCE, "slices": slices, "slice_s": seconds / slices, "targets": targets}


def _sides(cluster: OwnCluster, bare_port: int, open_port: int) -> dict[str, tuple[int, str]]:
    """Port and Authorization by the prefix of the targets' names."""
    credential = base64.b64encode(f"{cluster.profile.access_key}:{cluster.profile.secret_key}".encode()).decode()
    return {
        "": (urlsplit(cluster.profile.endpoint).port or 80, f"Basic {credential}"),
        "open ": (open_port, ""),
        "bare ": (bare_port, ""),
    }


def _settings(cluster: OwnCluster) -> dict[str, str]:
    """Of the API without authentication: on the same data, with keys that open nothing."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
    return outer | {
        "MOORAGE_DATABASE_URL": cluster.database_url,
        "MOORAGE_TEMPORAL_ADDRESS": cluster.temporal,
        "MOORAGE_TEMPORAL_UI_URL": cluster.web_ui,
        "MOORAGE_PAYLOAD_KEYS": f"bench:{secrets.token_hex(32)}",
        "MOORAGE_JWT_KEYS": f"bench:{secrets.token_hex(32)}",
        "MOORAGE_DATAPLANE_KEY": secrets.token_hex(32),
        "MOORAGE_ANONYMOUS_RATE_LIMIT": "0",
    }


def _press(plan: dict[str, Any]) -> dict[str, Any]:
    with process("moorage.cli.bench.load", stdout=subprocess.PIPE) as load:
        output, _ = load.communicate(json.dumps(plan))
        if load.returncode != 0:
            raise MoorageError("the load generator gave up; what it said stands above")
    found: dict[str, Any] = json.loads(output)
    return found


def _figures(measured: dict[str, Any], read: str) -> dict[str, float]:
    """`ratio` to the bare side; `cost` is the part of the rate that authentication and permissions take."""
    per_s = {side: len(measured[f"{side}{read}"]["took_ms"]) / measured[f"{side}{read}"]["seconds"] for side in _SIDES}
    p99 = {side: percentile(measured[f"{side}{read}"]["took_ms"], 99) for side in _SIDES}
    return {
        "per_s": round(per_s[""]),
        "p99_ms": p99[""],
        "open_per_s": round(per_s["open "]),
        "open_p99_ms": p99["open "],
        "bare_per_s": round(per_s["bare "]),
        "bare_p99_ms": p99["bare "],
        "ratio": round(per_s[""] / per_s["bare "], 3),
        "cost": round(1 - per_s[""] / per_s["open "], 3),
    }


_SIDES = ("", "open ", "bare ")


async def _same_answers(sides: dict[str, tuple[int, str]], session_id: str) -> None:
    """No figures without proof: all sides answer the same, once the first pass has written why sessions wait."""
    for path in (f"/session/{session_id}", _LIST):
        for _ in range(_TRIES):
            answers = [await _answer(path, *side) for side in sides.values()]
            if all(answer == answers[0] for answer in answers) and answers[0][0] == 200:
                break
            await asyncio.sleep(0.5)
        else:
            statuses = ", ".join(f"{side or 'ours '}{status}" for side, (status, _) in zip(sides, answers, strict=True))
            raise MoorageError(f"GET {path} is not answered alike ({statuses})")


async def _answer(path: str, port: int, authorization: str) -> tuple[int, object]:
    connection = Connection("127.0.0.1", port)
    status, body = await connection.ask(request("GET", path, authorization))
    connection.close()
    return status, json.loads(body)


async def _fill(cluster: OwnCluster, count: int) -> tuple[list[str], str]:
    """(some of the new sessions' ids, their owner). Half of them wait in a resource group without nodes."""
    import asyncpg

    connection = await asyncpg.connect(cluster.database_url)
    try:
        await connection.execute(
            "INSERT INTO resource_groups (name, policy, selector) VALUES ('bench', 'priority', 'concentrated')"
        )
        owner = await connection.fetchrow("SELECT id, project_id FROM users")
        ids = [str(uuid.uuid4()) for _ in range(count)]
        await connection.execute(_FILL, ids, owner["id"], owner["project_id"])
        await connection.execute("ANALYZE")
    finally:
        await connection.close()
    return ids[:500], str(owner["id"])


# `status_changed` lies ahead, so that the reaper does not look for the workflows of those that wait.
_FILL = """
    WITH new AS (SELECT id, n, CASE WHEN n % 2 = 0 THEN 'PENDING' ELSE 'TERMINATED' END AS status
                   FROM unnest($1::uuid[]) WITH ORDINALITY AS given (id, n)),
    s AS (INSERT INTO sessions (id, name, user_id, project_id, domain, resource_group, type, image, command, slots,
               priority, on_node_loss, pending_timeout_s, lifetime_s, batch_timeout_s, grace_s, status, status_changed,
               result, attempt, created_at)
          SELECT id, 'bench-' || n, $2, $3, 'default', 'bench', 'batch', 'python:3.12',
                 ARRAY['python3', '-c', 'print(6*7)'], '{"cpu": 1000, "mem": 268435456}', 10, 'fail', 0, 0, 0, 10,
                 status, now() + interval '1 hour', 'UNDEFINED', 0, now() - make_interval(secs => n) FROM new)
    INSERT INTO kernels (id, session_id, role, idx) SELECT gen_random_uuid(), id, 'main', 1 FROM new
"""
