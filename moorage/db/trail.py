"""The audit as it is read: pages, the whole of it for an export, and the proof that nobody changed it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db.audit import COLUMNS
from moorage.db.engine import reading
from moorage.db.reach import within
from moorage.domain.chain import Broken, Chain, Head
from moorage.domain.tenancy import Principal

Row = Mapping[str, Any]

_BATCH = 1000
_BEFORE_ALL = -(2**63)  # a row below the first is none that a commit has numbered


@dataclass(frozen=True, slots=True)
class Sought:
    """Which rows; what is None doesn't matter. `since` and `until` are moments, the second one excluded."""

    since: datetime | None = None
    until: datetime | None = None
    actor: str | None = None
    operation: str | None = None
    entity: str | None = None
    entity_id: str | None = None
    outcome: str | None = None


# A domain's name may have belonged to another one before: its administrators don't read what that one did.
_NOT_BEFORE = "a.at >= COALESCE((SELECT d.created_at FROM domains d WHERE d.name = a.domain), '-infinity')"
_CONDITIONS = {
    "since": "a.at >= {}::timestamptz",
    "until": "a.at < {}::timestamptz",
    "actor": "{}::text IN (a.actor, a.acted_as)",
    "operation": "a.operation = {}::text",
    "entity": "a.entity = {}::text",
    "entity_id": "a.entity_id = {}::text",
    "outcome": "a.outcome = {}::text",
}


async def page(
    engine: AsyncEngine, who: Principal, sought: Sought, *, after: int | None, limit: int, newest_first: bool
) -> Sequence[Row]:
    """The rows that `who` may read, from the one after `after` on in that order: seq, previous, hash, record."""
    values: list[Any] = []
    far = who.reach("audit:read")
    conditions = [within(far, values, user="a.user_id", project="a.project_id", domain="a.domain", id_type="text")]
    if far.domains:
        conditions.append(_NOT_BEFORE)
    for name, condition in _CONDITIONS.items():
        if (value := getattr(sought, name)) is not None:
            values.append(value)
            conditions.append(condition.format(f"${len(values)}"))
    if after is not None:
        values.append(after)
        conditions.append(f"a.seq {'<' if newest_first else '>'} ${len(values)}")
    values.append(limit)
    query = (
        f"SELECT a.seq, a.previous, a.hash, a.record FROM audit a WHERE {' AND '.join(conditions)}"
        f" ORDER BY a.seq {'DESC' if newest_first else 'ASC'} LIMIT ${len(values)}"
    )
    async with reading(engine) as connection:
        found: Sequence[Row] = await connection.fetch(query, *values)
    return found


async def every(engine: AsyncEngine, who: Principal, sought: Sought) -> AsyncIterator[Row]:
    """All of these rows, the oldest first, in batches: none is held longer than it is needed, no lock between them."""
    after = 0
    while rows := await page(engine, who, sought, after=after, limit=_BATCH, newest_first=False):
        for row in rows:
            yield row
        after = rows[-1]["seq"]


async def verify(engine: AsyncEngine, *, expected: Head | None = None) -> tuple[Chain, Broken | None]:
    """Walks the whole chain. The first thing that is wrong with it, or None; what was right up to there."""
    chain, after = Chain(), _BEFORE_ALL
    while rows := await _batch(engine, after=after):
        after = rows[-1]["seq"]
        for row in rows:
            broken = chain.follow(
                seq=row["seq"], previous=row["previous"], digest=row["hash"], record=row["record"]
            ) or _differing(row)
            if broken is None and expected is not None and chain.seq == expected.seq:
                broken = expected.contradicts(chain)
            if broken is not None:
                return chain, broken
    return chain, expected.contradicts(chain) if expected is not None else None


async def _batch(engine: AsyncEngine, *, after: int) -> Sequence[Row]:
    async with reading(engine) as connection:
        rows: Sequence[Row] = await connection.fetch(
            f"SELECT seq, previous, hash, record, at, {', '.join(COLUMNS)} FROM audit WHERE seq > $1"
            " ORDER BY seq LIMIT $2",
            after,
            _BATCH,
        )
    return rows


def _differing(row: Row) -> Broken | None:
    """A column that says something else than the record, which alone is covered by the hash."""
    record = json.loads(row["record"])
    if row["at"] != datetime.fromisoformat(record["at"]):
        return Broken(seq=row["seq"], what="its column at is not what the record says")
    for name in COLUMNS:
        if row[name] != record[name]:
            return Broken(seq=row["seq"], what=f"its column {name} is not what the record says")
    return None
