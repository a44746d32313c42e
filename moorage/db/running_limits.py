"""The limits on what runs, looked at once more in the transaction that places.

The schedulers of two resource groups may decide at the same time over one owner's limit, each on what it saw before the
other committed. So whoever places for a limited owner takes turns, and counts again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from moorage.db import quotas
from moorage.domain.resources import Slots
from moorage.scheduler.snapshot import Scope

_Key = tuple[Scope, str]

_ANY = (
    "SELECT EXISTS (SELECT 1 FROM policies WHERE max_sessions IS NOT NULL OR max_slots <> '{}')"
    " OR EXISTS (SELECT 1 FROM limits WHERE max_sessions IS NOT NULL OR max_slots <> '{}')"
)
_SESSIONS = (
    "SELECT s.id::text, s.slots, s.cluster_size, s.access_key, u.email, s.user_id::text,"
    " s.domain || '/' || p.name AS project, s.project_id::text, s.domain FROM sessions s"
    " JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id WHERE s.id = ANY(CAST(:ids AS uuid[]))"
)
_LIMITED = (
    "SELECT q.* FROM unnest(CAST(:scopes AS text[]), CAST(:names AS text[])) AS w(scope, name)"
    " CROSS JOIN LATERAL (SELECT o.scope, o.name, o.max_sessions, o.max_slots FROM quotas o"
    "   WHERE o.scope = w.scope AND o.name = w.name OFFSET 0) q"
    " WHERE q.max_sessions IS NOT NULL OR q.max_slots <> '{}'"
)


@dataclass(frozen=True, slots=True)
class Beyond:
    """Who may hold no more of a slot: what it holds, and at most may."""

    scope: Scope
    name: str
    slot: str
    held: int
    limit: int


@dataclass(slots=True)
class _State:
    scope: Scope
    name: str
    max_sessions: int | None
    max_slots: Slots
    sessions: int = 0
    held: Slots = field(default_factory=dict)

    def takes(self, asked: Mapping[str, int]) -> bool:
        if self.max_sessions is not None and self.sessions + 1 > self.max_sessions:
            return False
        return all(
            self.held.get(slot, 0) + asked[slot] <= limit for slot, limit in self.max_slots.items() if asked.get(slot)
        )

    def add(self, asked: Mapping[str, int]) -> None:
        self.sessions += 1
        for slot, amount in asked.items():
            self.held[slot] = self.held.get(slot, 0) + amount


class RunningLimits:
    """What the owners of some sessions may still hold, as of now and until the commit."""

    def __init__(self, owned: Mapping[str, list[_State]], asked: Mapping[str, Slots]) -> None:
        self._owned = owned
        self._asked = asked

    def allow(self, session_id: str) -> bool:
        asked = self._asked.get(session_id, {})
        return all(state.takes(asked) for state in self._owned.get(session_id, ()))

    def beyond(self, session_id: str, more: Mapping[str, int]) -> Beyond | None:
        """The first owner who may not hold so much more for a session that runs."""
        for state in self._owned.get(session_id, ()):
            for slot, amount in more.items():
                held, limit = state.held.get(slot, 0), state.max_slots.get(slot)
                if limit is not None and held + amount > limit:
                    return Beyond(state.scope, state.name, slot, held, limit)
        return None

    def placed(self, session_id: str) -> None:
        for state in self._owned.get(session_id, ()):
            state.add(self._asked[session_id])


async def take(connection: AsyncConnection, session_ids: Sequence[str]) -> RunningLimits:
    """Until the commit nobody else places for the limited owners of these sessions. Costs one look where none is."""
    if not session_ids or not (await connection.execute(text(_ANY))).scalar_one():
        return RunningLimits({}, {})
    found = await connection.execute(text(_SESSIONS), {"ids": list(session_ids)})
    rows = [dict(row) for row in found.mappings()]
    ids = {key: held_by for row in rows for key, held_by in _owners(row)}
    limited = await _limited(connection, ids)
    if not limited:
        return RunningLimits({}, {})
    await quotas.take_turns_placing(connection, [(str(scope), name) for scope, name in limited])
    states = await _limited(connection, limited)  # it may have been changed while we waited for our turn
    await _count(connection, states, ids)
    owned = {row["id"]: [states[key] for key, _ in _owners(row) if key in states] for row in rows}
    asked = {row["id"]: {slot: amount * row["cluster_size"] for slot, amount in row["slots"].items()} for row in rows}
    return RunningLimits(owned, asked)


def _owners(row: Mapping[str, Any]) -> list[tuple[_Key, str]]:
    """(scope and name, as sessions name it)."""
    return [
        ((Scope.KEYPAIR, row["access_key"]), row["access_key"]),
        ((Scope.USER, row["email"]), row["user_id"]),
        ((Scope.PROJECT, row["project"]), row["project_id"]),
        ((Scope.DOMAIN, row["domain"]), row["domain"]),
    ]


async def _limited(connection: AsyncConnection, keys: Iterable[_Key]) -> dict[_Key, _State]:
    which = list(keys)
    rows = await connection.execute(
        text(_LIMITED), {"scopes": [str(scope) for scope, _ in which], "names": [name for _, name in which]}
    )
    return {
        (scope, row["name"]): _State(scope, row["name"], row["max_sessions"], row["max_slots"])
        for row in rows.mappings()
        for scope in (Scope(row["scope"]),)
    }


async def _count(connection: AsyncConnection, states: Mapping[_Key, _State], ids: Mapping[_Key, str]) -> None:
    of_scope: dict[Scope, dict[str, _State]] = defaultdict(dict)
    for key, state in states.items():
        of_scope[key[0]][ids[key]] = state
    for scope, wanted in of_scope.items():
        rows = await connection.execute(text(quotas.held_by_many_query(scope)), {"owners": list(wanted)})
        for row in rows.mappings():
            state = wanted[row["owner"]]
            state.held[row["slot"]] = row["amount"]
            state.sessions = max(state.sessions, row["sessions"])
