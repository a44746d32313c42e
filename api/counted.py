"""Counts who asks without saying who he is, at the latest when he is answered; and tells everybody what is left."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import answers
from api.errors import problem
from api.rates import Rate, is_free
from moorage.db.audit import asking
from moorage.domain.errors import TooManyRequests


class Counted:
    """ASGI middleware. `authenticate` has counted whom it knows; failed log-ins and nonsense are counted here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in answers.ASKED or is_free(scope["path"]):
            await self._app(scope, receive, send)
            return
        state, refused = scope["state"], False

        async def counted(message: Message) -> None:
            nonlocal refused
            if refused:
                return
            if answers.begins(message):
                if "rate" not in state:
                    state["rate"] = await _count(scope)
                    refused = bool(state["rate"] and state["rate"].retry_after_s)
                if refused:
                    await _refuse(state["rate"], scope, receive, send)
                    return
                _add_headers(message, state["rate"])
            await send(message)

        await self._app(scope, receive, counted)


async def _count(scope: Scope) -> Rate | None:
    asked = asking.get()
    rate: Rate | None = await scope["app"].state.parts.rates.count_anonymous(asked.address if asked else "")
    return rate


async def _refuse(rate: Rate, scope: Scope, receive: Receive, send: Send) -> None:
    async def with_headers(message: Message) -> None:
        if answers.begins(message):
            _add_headers(message, rate)
        await send(message)

    try:
        rate.check()
    except TooManyRequests as error:
        await problem(error)(scope, receive, with_headers)


def _add_headers(message: Message, rate: Rate | None) -> None:
    if rate is not None:
        message["headers"] = [*message.get("headers", ()), *rate.headers]
