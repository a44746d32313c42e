"""What a resolver has at hand."""

from __future__ import annotations

from dataclasses import dataclass

from graphql import GraphQLResolveInfo

from api.deps import Parts
from moorage.domain.errors import InvalidRequest
from moorage.domain.tenancy import Principal

PAGE = 100


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
