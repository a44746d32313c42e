"""What a resolver has at hand."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from graphql import GraphQLResolveInfo
from pydantic import BaseModel, ValidationError

from api.deps import Parts
from api.errors import invalid_request
from moorage.domain.errors import InvalidRequest, NotFound
from moorage.domain.tenancy import Principal

PAGE = 100
_Wish = TypeVar("_Wish", bound=BaseModel)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Asked:
    parts: Parts
    who: Principal


Info = GraphQLResolveInfo[Asked]


def page(limit: int, offset: int) -> tuple[int, int]:
    """Both, if they are allowed."""
    if not 1 <= limit <= PAGE or not 0 <= offset <= 1_000_000:
        raise InvalidRequest(f"limit {limit} and offset {offset}: allowed are 1 to {PAGE}, and 0 to 1000000")
    return limit, offset


def checked(model: type[_Wish], values: Mapping[str, Any]) -> _Wish:
    """What REST would take as a body; refused in the same words."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise invalid_request(error.errors()) from None


async def or_none(found: Awaitable[_T]) -> _T | None:
    """As GraphQL's clients expect it of what is not there, or not for them."""
    try:
        return await found
    except NotFound:
        return None
