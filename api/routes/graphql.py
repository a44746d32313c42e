"""GraphQL over HTTP."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from api.deps import Who, With
from api.graphql.asked import Asked
from api.graphql.execution import build_schema, execute

router = APIRouter(tags=["graphql"])
_schema = build_schema()


class GraphQLQuery(BaseModel):
    """One query; a list of them is refused."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"query": "{ compute_session_list(limit: 5, offset: 0) { total_count } }"}]},
    )
    query: str = Field(min_length=1, max_length=100_000)
    variables: dict[str, Any] | None = None
    operation_name: str | None = Field(default=None, alias="operationName")
    extensions: dict[str, Any] | None = None


@router.post("/graphql", summary="Ask for just what is needed")
@router.post("/admin/gql", summary="The same, where Backend.AI's clients look for it")
async def ask(wish: GraphQLQuery, who: Who, parts: With) -> Response:
    """Answers 200 with `data`, or with `errors`, each with `message`, `path` and `extensions` (code, status, hint)."""
    _, answer = await execute(_schema, Asked(parts, who), wish.model_dump(exclude={"extensions"}, by_alias=True))
    return JSONResponse(answer)
