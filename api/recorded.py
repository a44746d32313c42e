"""Whatever asks for a change ends in the audit: what no transaction has written there is written before the answer.

That is: what was refused or failed, what changed no table, and reads of what one may not read. Refused log-ins come in
floods; of each address one row a minute says how many there were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import answers, permissions
from api.rates import network_of
from moorage import log
from moorage.db.audit import Asking, asking, write_alone

_MINUTE_S = 60.0
_ADDRESSES = 1000  # counted apart; the others in one row
_OTHERS = ""
_FLOODS = frozenset({401, 429})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_log = log.get("api")


class Recorded:
    """ASGI middleware; the part of the app that it needs is `Parts.floods`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = asking.get()
        if scope["type"] not in answers.ASKED or asked is None:
            await self._app(scope, receive, send)
            return
        answered = False

        async def recorded(message: Message) -> None:
            nonlocal answered
            answered = answered or answers.opens(message)  # what it opens for, its route has written
            if answers.begins(message):
                answered = True
                await _record(scope, asked, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, recorded)
        except Exception:
            if not answered:
                await _record(scope, asked, 500)
            raise


async def _record(scope: Scope, asked: Asking, status: int) -> None:
    floods: Floods = scope["app"].state.parts.floods
    for past in floods.over():
        await _write(scope, past)
    if not _belongs(asked, status, changes=_changes(scope)):
        return
    denial = Denial(asked, _outcome(status))
    if status not in _FLOODS:
        await _write(scope, denial)
    elif due := floods.count(asked.who.user_id if asked.who else network_of(asked.address), denial):
        await _write(scope, due)


def _changes(scope: Scope) -> bool:
    route = getattr(scope.get("route"), "path", "")
    method = scope.get("method", "WEBSOCKET")
    return method not in _READING and f"{method} {route}" not in permissions.CHANGING_NOTHING


def _belongs(asked: Asking, status: int, *, changes: bool) -> bool:
    if not asked.operation:  # no route was found, or its body was none: nobody was asked for anything
        return False
    if not changes:
        return status in (401, 403) and not asked.written
    return not asked.written or (status >= 400 and asked.outcome in ("success", "asked"))


def _outcome(status: int) -> str:
    if status < 400:
        return "success"
    if status < 500:
        return "denied" if status in (401, 403) else "refused"
    return "failed"


@dataclass(slots=True)
class Denial:
    """What is to be written, and for how many requests."""

    asked: Asking
    outcome: str
    count: int = 1


async def _write(scope: Scope, one: Denial) -> None:
    """What was refused stays refused, whether or not the database can take the row."""
    token = asking.set(one.asked)
    try:
        await write_alone(
            scope["app"].state.parts.engine,
            one.asked.who,
            one.asked.operation,
            one.asked.entity_id,
            outcome=one.outcome,
            code=one.asked.code,
            count=one.count,
        )
    except Exception as error:
        _log.error("not in the audit", operation=one.asked.operation, outcome=one.outcome, error=str(error)[:200])
    finally:
        asking.reset(token)


class Floods:
    """Counts refusals by who is refused. The first one is due at once, those that follow when the minute is over."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted: dict[str, tuple[float, Denial | None]] = {}
        self._look_at = 0.0

    def count(self, key: str, denial: Denial) -> Denial | None:
        """The denial, if it is to be written now."""
        if key not in self._counted and len(self._counted) >= _ADDRESSES:
            key = _OTHERS
        if key not in self._counted:
            self._counted[key] = (self._clock(), None)
            return denial
        since, before = self._counted[key]
        denial.count = before.count + 1 if before else 1
        self._counted[key] = (since, denial)
        return None

    def over(self) -> Iterator[Denial]:
        """What was counted and not written in minutes that are over."""
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + _MINUTE_S / 10
        for key, (since, denial) in list(self._counted.items()):
            if now - since < _MINUTE_S:
                continue
            del self._counted[key]
            if denial is not None:
                self._counted[key] = (now, None)
                yield denial
