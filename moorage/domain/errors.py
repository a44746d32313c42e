"""Everything that Moorage refuses or fails with, as one tree.

MoorageError
├── InvalidRequest      400  the request itself is wrong; the same request never helps
├── Unauthenticated     401
├── Forbidden           403
├── NotFound            404
├── Conflict            409  the state of things forbids it now
├── TooLarge            413
├── Unsatisfiable       422  no node can ever give what was asked
├── TooManyRequests     429  the same request helps after `retry_after_s`
└── Unavailable         503  a part is away; the same request helps later
"""

from __future__ import annotations

from collections.abc import Mapping


class MoorageError(Exception):
    """A refusal with a stable code, plain words (with the numbers), and what to do next."""

    status = 500
    code = "internal-error"
    retrying_helps = False

    def __init__(
        self, message: str, *, code: str | None = None, hint: str = "", data: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.hint = hint
        self.data = dict(data or {})


class InvalidRequest(MoorageError):
    status = 400
    code = "invalid-api-params"


class Unauthenticated(MoorageError):
    status = 401
    code = "auth-failed"


class Forbidden(MoorageError):
    status = 403
    code = "forbidden"


class NotFound(MoorageError):
    status = 404
    code = "object-not-found"


class Conflict(MoorageError):
    status = 409
    code = "conflict"


class TooLarge(MoorageError):
    status = 413
    code = "body-too-large"


class Unsatisfiable(MoorageError):
    status = 422
    code = "unsatisfiable"


class TooManyRequests(MoorageError):
    """Says when to come back; the gateway turns that into Retry-After."""

    status = 429
    code = "too-many-requests"
    retrying_helps = True

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 1.0,
        code: str | None = None,
        hint: str = "",
        data: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint, data=data)
        self.retry_after_s = retry_after_s


class Unavailable(MoorageError):
    status = 503
    code = "unavailable"
    retrying_helps = True
