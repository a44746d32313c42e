"""What was asked, by whom, on what, with what outcome: a chain of rows that nobody rewrites.

A change is written in the transaction that makes it. The row gets its place in the chain during the commit, where
writers take turns; so whoever goes on in his transaction keeps nobody waiting, and can't wait in a circle.
What changed nothing (a denial, a failure, a signal) the gateway writes when it answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.domain.lines import one_line
from moorage.domain.tenancy import Principal


@dataclass(slots=True)
class Asking:
    """The request that this task answers: from where, who and what, as far as that is known by now.

    `written` once it stands in the audit, with that `outcome`; `code` of the problem it is answered with.
    """

    address: str = ""
    request_id: str = ""
    written: bool = False
    outcome: str = ""
    code: str = ""
    who: Principal | None = None
    operation: str = ""
    entity_id: str = ""


asking: ContextVar[Asking | None] = ContextVar("asking", default=None)


async def write(
    connection: AsyncConnection,
    who: Principal | None,
    operation: str,
    entity_id: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    outcome: str = "success",
    code: str = "",
    count: int = 1,
    domain: str = "",
    project_id: str = "",
    user_id: str = "",
) -> None:
    """Appends a row. `operation` is a permission (`domain:create`) or `auth:login` and the like.

    `before` and `after` hold what a client may see of the entity, never a secret. Whose it is (domain, project, user)
    decides who may read the row; the asker's own where nothing is given. `count`: how many requests it stands for.
    """
    request = asking.get() or Asking()
    entity = operation.partition(":")[0]
    record = {
        "at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "actor": (who.actor or who.email) if who else "",
        "acted_as": who.email if who and who.actor else "",
        "credential": who.credential if who else "",
        "address": request.address,
        "operation": operation,
        "entity": entity,
        "entity_id": one_line(entity_id),
        "domain": domain or (who.domain if who else ""),
        "project_id": project_id,
        "user_id": user_id or (who.user_id if who else ""),
        "before": before,
        "after": after,
        "outcome": outcome,
        "code": code,
        "count": count,
        "request_id": request.request_id,
    }
    await connection.execute(
        text(
            "INSERT INTO audit (at, actor, acted_as, address, operation, entity, entity_id, domain, project_id,"
            " user_id, outcome, request_id, record) VALUES (CAST(:at AS timestamptz), :actor, :acted_as, :address,"
            " :operation, :entity, :entity_id, :domain, :project_id, :user_id, :outcome, :request_id, :record)"
        ),
        {
            **{name: record[name] for name in COLUMNS},
            "at": datetime.fromisoformat(str(record["at"])),
            "record": canonical(record),
        },
    )
    request.written, request.outcome = True, outcome


async def write_alone(engine: AsyncEngine, who: Principal | None, operation: str, entity_id: str, **more: Any) -> None:
    """A row in a transaction of its own: of what changes no table, before it is done (a signal, a command)."""
    async with engine.begin() as connection:
        await write(connection, who, operation, entity_id, **more)


COLUMNS = (
    "actor", "acted_as", "address", "operation", "entity", "entity_id", "domain", "project_id", "user_id", "outcome",
    "request_id",
)  # fmt: skip


def canonical(record: Mapping[str, Any]) -> str:
    """The text that a row's hash covers: JSON with sorted keys, without blanks, in ASCII."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
