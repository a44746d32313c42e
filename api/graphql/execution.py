"""The schema, with a permission before each field, and the execution of a request."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ariadne import graphql, load_schema_from_path, make_executable_schema
from ariadne.validation import cost_directive
from graphql import GraphQLError, GraphQLSchema

from api import permissions
from api.graphql.asked import Asked, Info
from api.graphql.limits import cost_rule, parsed
from api.graphql.resolvers import BINDABLES
from moorage import log
from moorage.db import audit
from moorage.domain.errors import MoorageError

_log = log.get("api")
_SDL = Path(__file__).parent / "schema.graphql"
# Ariadne would log each refusal with its stack.
_SILENT = logging.getLogger("moorage.graphql")
_SILENT.disabled = True


def build_schema() -> GraphQLSchema:
    """The schema; refuses to be built while a root field has no line in the table of permissions, or no resolver."""
    schema = make_executable_schema([load_schema_from_path(str(_SDL)), cost_directive], *BINDABLES)
    roots = {"Query": schema.query_type, "Mutation": schema.mutation_type}
    fields = {f"{root}.{name}": field for root, kind in roots.items() if kind for name, field in kind.fields.items()}
    permissions.check_fields(fields.keys())
    for name, field in fields.items():
        if field.resolve is None:
            raise RuntimeError(f"{name} has no resolver")
        field.resolve = _guarded(name, field.resolve)
    return schema


async def execute(schema: GraphQLSchema, asked: Asked, data: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """(whether it could be carried out at all, the answer). Keys of the data in the order of the selection."""
    return await graphql(
        schema,
        data,
        context_value=asked,
        query_parser=lambda _, body: parsed(body["query"]),
        validation_rules=lambda context, document, body: [cost_rule(body.get("variables"))],
        error_formatter=_problem,
        logger=_SILENT,
    )


def _guarded(name: str, resolve: Callable[..., Any]) -> Callable[..., Any]:
    needed, changes = permissions.FIELDS[name], name.startswith("Mutation.")

    @functools.wraps(resolve)
    async def guarded(source: Any, info: Info, **arguments: Any) -> Any:
        try:
            permissions.check(info.context.who, needed)
            return await resolve(source, info, **arguments)
        except MoorageError as error:
            if changes or error.status == 403:
                await _record(info.context, needed, arguments, error)
            raise

    return guarded


async def _record(asked: Asked, operation: str, arguments: Mapping[str, Any], error: MoorageError) -> None:
    """What was refused stands in the audit, as over REST. A change writes itself, in its transaction."""
    entity_id = next((value for value in arguments.values() if isinstance(value, str)), "")
    outcome = "denied" if error.status == 403 else "refused"
    await audit.write_alone(asked.parts.engine, asked.who, operation, entity_id[:256], outcome=outcome, code=error.code)


def _problem(error: GraphQLError, debug: bool) -> dict[str, Any]:
    """As REST says it: the words as message, and code, hint and data as extensions."""
    formatted: dict[str, Any] = dict(error.formatted)
    cause = error.original_error
    if isinstance(cause, MoorageError):
        formatted["message"] = cause.message
        formatted["extensions"] = {
            "code": cause.code,
            "status": cause.status,
            "hint": cause.hint,
            "data": cause.data,
        }
    elif cause is not None and not isinstance(cause, GraphQLError):
        _log.error("unexpected", path="graphql", exc_info=cause)
        formatted["message"] = "something unexpected went wrong; the log of the API says what"
        formatted["extensions"] = {"code": "internal-error", "status": 500}
    return formatted
