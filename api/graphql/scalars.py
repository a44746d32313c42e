"""How values look in GraphQL's answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from ariadne import ScalarType
from graphql import GraphQLError

uuid, moment, json_string, big_int = (ScalarType(name) for name in ("UUID", "DateTime", "JSONString", "BigInt"))


@uuid.serializer
def _(value: Any) -> str:
    return str(value)


@uuid.value_parser
def _(value: Any) -> str:
    try:
        return str(UUID(str(value)))
    except ValueError:
        raise GraphQLError(f"{str(value)[:64]!r} is no UUID") from None


@moment.serializer
def _(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


@moment.value_parser
def _(value: Any) -> datetime:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        raise GraphQLError(f"{str(value)[:64]!r} is no ISO 8601 time") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@json_string.serializer
def _(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@json_string.value_parser
def _(value: Any) -> Any:
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        raise GraphQLError(f"{str(value)[:64]!r} is no JSON") from None


@big_int.serializer
def _(value: Any) -> int:
    return int(value)


@big_int.value_parser
def _(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise GraphQLError(f"{str(value)[:64]!r} is no whole number") from None


SCALARS = [uuid, moment, json_string, big_int]
