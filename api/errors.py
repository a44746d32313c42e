"""Every refusal as problem+json: type, title, status, code, msg, hint, data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import asyncpg
from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from temporalio.service import RPCError

from moorage import log
from moorage.db.audit import asking
from moorage.domain.errors import InvalidRequest, MoorageError, TooManyRequests, Unavailable

_CODES = {404: "route-not-found", 405: "method-not-allowed", 413: "body-too-large"}
_HINTS = {404: "/docs lists the routes", 405: "/docs lists the routes with their methods"}
_SAID = {"extra_forbidden": "there is no such field", "model_attributes_type": "the body is not a JSON object"}
_AWAY = (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, RPCError, OSError)

PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "code", "msg", "hint", "data"],
    "properties": {
        "type": {"type": "string", "description": "urn:moorage:problem:<code>"},
        "title": {"type": "string", "description": "what was wrong, with the numbers"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "stable; docs/api.md lists them"},
        "msg": {"type": "string", "description": "the same as title"},
        "hint": {"type": "string", "description": "what to do next"},
        "data": {"type": "object"},
    },
}

_log = log.get("api")


def problem(error: MoorageError) -> JSONResponse:
    if (asked := asking.get()) is not None:
        asked.code = error.code
    headers = {"Retry-After": _retry_after(error)} if error.retrying_helps else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = {
        "type": f"urn:moorage:problem:{error.code}",
        "title": error.message,
        "status": error.status,
        "code": error.code,
        "msg": error.message,
        "hint": error.hint,
        "data": error.data,
    }
    return JSONResponse(body, error.status, headers, "application/problem+json")


def _retry_after(error: MoorageError) -> str:
    """Whole seconds, never too few."""
    return str(max(1, math.ceil(error.retry_after_s))) if isinstance(error, TooManyRequests) else "1"


def install(app: FastAPI) -> None:
    @app.exception_handler(MoorageError)
    async def ours(request: Request, error: MoorageError) -> JSONResponse:
        return problem(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        inner = [{**one, "loc": one["loc"][1:]} for one in error.errors()]
        return problem(invalid_request(inner))

    @app.exception_handler(WebSocketRequestValidationError)
    async def invalid_opening(websocket: WebSocket, error: WebSocketRequestValidationError) -> JSONResponse:
        return problem(invalid_request([{**one, "loc": one["loc"][1:]} for one in error.errors()]))

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> JSONResponse:
        code, hint = _CODES.get(error.status_code, "http-error"), _HINTS.get(error.status_code, "")
        refusal = MoorageError(str(error.detail), code=code, hint=hint)
        refusal.status = error.status_code
        return problem(refusal)

    async def away(request: Request, error: Exception) -> JSONResponse:
        if _state_of(error).startswith("22"):
            return problem(
                InvalidRequest("the request holds a value that can't be stored, a NUL character for example")
            )
        _log.warning("a part is away", path=request.url.path, error=f"{type(error).__name__}: {error}"[:300])
        if isinstance(error, (DBAPIError, asyncpg.PostgresError)) and not _is_away(error):
            return problem(MoorageError("the request could not be carried out; the log of the API says why"))
        return problem(Unavailable("a part of the system is away for a moment; try again"))

    for kind in _AWAY:
        app.add_exception_handler(kind, away)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        _log.error("unexpected", path=request.url.path, exc_info=error)
        answer = problem(MoorageError("something unexpected went wrong; the log of the API says what"))
        answer.headers["X-Request-Id"] = getattr(request.state, "request_id", "")  # no middleware sees this answer
        return answer


def invalid_request(errors: Iterable[Mapping[str, Any]]) -> InvalidRequest:
    """Pydantic's findings, each with its field. `loc` begins within the body."""
    fields = dict(_field_and_words(one) for one in errors)
    words = "; ".join(message if field == "body" else f"{field}: {message}" for field, message in fields.items())
    return InvalidRequest(words[:1000], data=fields)


def _field_and_words(error: Mapping[str, Any]) -> tuple[str, str]:
    """`body` is the whole of it. Pydantic's words, but for those that speak of its own ways."""
    kind, place = str(error["type"]), ".".join(str(part) for part in error["loc"])
    if kind == "json_invalid":
        return "body", f"the body is not JSON: {error['ctx']['error']} at character {place}"
    if kind == "missing" and not place:
        return "body", "the request needs a JSON body"
    words = str(error["msg"]).removeprefix("Value error, ")
    return place or "body", _SAID.get(kind, words)


def _state_of(error: Exception) -> str:
    return str(getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlstate", "") or "")


def _is_away(error: DBAPIError | asyncpg.PostgresError) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    state = _state_of(error)
    return state.startswith(("08", "57")) or state in ("", "53300")
