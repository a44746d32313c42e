"""Nothing is open by having been forgotten."""

from __future__ import annotations

import pytest
from fastapi import APIRouter

from api import permissions
from api.main import ROOMS


async def nothing() -> None:
    """A route that somebody forgot to protect."""


def test_a_route_without_a_line_keeps_the_api_from_starting() -> None:
    forgotten = APIRouter()
    forgotten.add_api_route("/forgotten", nothing)
    with pytest.raises(RuntimeError, match=r"without a line .'GET /forgotten'"):
        permissions.check_table([*(route for room in ROOMS for route in room.router.routes), *forgotten.routes])


def test_a_line_without_a_route_keeps_the_api_from_starting() -> None:
    with pytest.raises(RuntimeError, match=r"without a route .*'GET /session'"):
        permissions.check_table([])


def test_a_field_without_a_line_keeps_the_api_from_starting() -> None:
    with pytest.raises(RuntimeError, match=r"without a line .'Query.forgotten'"):
        permissions.check_fields([*permissions.FIELDS, "Query.forgotten"])
