"""The gateway over HTTP, on a real database; only the workflows are a recording stand-in."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.main import build
from moorage.contracts.activities import Answer, Cancel
from moorage.domain.image_orders import ImageOrder
from moorage.settings import Settings
from tests.support.builders import KEYS

JWT_KEY = "j" * 32
JWT_KEYS = f"k1:{JWT_KEY}"
PASSWORD = "correct horse"
WISH: dict[str, Any] = {"image": "python:3.12", "type": "batch", "command": ["true"]}


@dataclass
class RecordedLives:
    """What the gateway asked of the workflows."""

    begun: list[str] = field(default_factory=list)
    cancelled: list[tuple[str, Cancel]] = field(default_factory=list)
    asked: list[tuple[str, str, object]] = field(default_factory=list)
    answer: Answer | Exception = field(default_factory=lambda: Answer(True))
    scheduled: list[tuple[str, str]] = field(default_factory=list)
    drained: list[str] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    without_workflow: set[str] = field(default_factory=set)
    image_orders: list[ImageOrder] = field(default_factory=list)

    async def begin(self, row: Mapping[str, Any]) -> None:
        self.begun.append(str(row["id"]))

    async def cancel(self, row: Mapping[str, Any], cancel: Cancel) -> bool:
        self.cancelled.append((str(row["id"]), cancel))
        return True

    async def ask(self, row: Mapping[str, Any], update: str, wish: object, *, within_s: float = 30) -> Answer:
        self.asked.append((str(row["id"]), update, wish))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def schedule(self, group: str, policy: str) -> None:
        self.scheduled.append((group, policy))

    async def drain(self, agent_id: str) -> bool:
        self.drained.append(agent_id)
        return agent_id not in self.without_workflow

    async def order_images(self, order: ImageOrder) -> None:
        self.image_orders.append(order)

    async def retire(self, agent_id: str) -> None:
        self.retired.append(agent_id)

    async def is_reachable(self) -> bool:
        return True


@dataclass
class Clock:
    """The real time, or the one where it was stopped, and what a test puts on top."""

    ahead_s: float = 0.0
    stopped_at: float | None = None

    def __call__(self) -> float:
        return (time.time() if self.stopped_at is None else self.stopped_at) + self.ahead_s


@dataclass
class Gateway:
    app: FastAPI
    http: httpx.AsyncClient
    lives: RecordedLives
    engine: AsyncEngine
    ada: dict[str, str]
    bob: dict[str, str]
    root: dict[str, str]
    clock: Clock

    async def submit(self, who: dict[str, str] | None = None, **wish: Any) -> httpx.Response:
        return await self.http.post("/session", json={**WISH, **wish}, headers=who or self.ada)

    async def submitted(self, who: dict[str, str] | None = None, **wish: Any) -> dict[str, Any]:
        answer = await self.submit(who, **wish)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def get(self, path: str, who: dict[str, str] | None = None, **params: str) -> httpx.Response:
        return await self.http.get(path, params=params, headers=who or self.ada)

    async def ask(self, method: str, path: str, body: Any = None, who: dict[str, str] | None = None) -> httpx.Response:
        """As the superadmin, if nobody else is named."""
        return await self.http.request(method, path, json=body, headers=who or self.root)

    async def end(self, session_id: str, status: str = "CANCELLED", result: str = "UNDEFINED") -> None:
        async with self.engine.begin() as connection:
            await connection.execute(
                text(
                    "UPDATE sessions SET status = :status, result = :result, reason = 'user-requested',"
                    " terminated_at = now() WHERE id = :id"
                ),
                {"id": session_id, "status": status, "result": result},
            )

    async def rename_id(self, session_id: str, new: str) -> None:
        """Gives a session an id that the test has chosen."""
        async with self.engine.begin() as connection:
            await connection.execute(text("SET session_replication_role = replica"))
            for table, column in (("sessions", "id"), ("kernels", "session_id"), ("transitions", "session_id")):
                await connection.execute(
                    text(f"UPDATE {table} SET {column} = :new WHERE {column} = :old"), {"new": new, "old": session_id}
                )
            await connection.execute(text("SET session_replication_role = DEFAULT"))


@cache
def _prepared() -> FastAPI:
    return build(Settings(database_url="postgresql://nowhere/", payload_keys=KEYS, jwt_keys=JWT_KEYS))


def built(settings: Settings, lives: RecordedLives, clock: Clock) -> FastAPI:
    """The app, with routes that are the same objects in all of a run: FastAPI needs 100 ms to prepare them."""
    app = build(settings, lives=lives, clock=clock)
    app.router.routes[:] = _prepared().router.routes
    return app


def access_key_of(who: dict[str, str]) -> str:
    return base64.b64decode(who["Authorization"].split()[1]).decode().split(":")[0]


def basic(access_key: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{access_key}:{secret}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """A problem as every client may rely on it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["title"] == problem["msg"]
    assert problem["title"]
    assert problem["type"] == f"urn:moorage:problem:{code}"
    return problem
