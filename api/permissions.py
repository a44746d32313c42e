"""What each route and each GraphQL field needs. A route that is not in the table keeps the API from starting."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import BaseRoute

from moorage.domain.permissions import PERMISSIONS
from moorage.domain.tenancy import Principal, forbidden

OPEN = "open"  # asked without saying who one is
SIGNED_IN = "signed-in"  # about oneself: being somebody is enough

ROUTES: dict[str, str] = {
    "GET /": OPEN,
    "GET /docs": OPEN,
    "GET /docs/oauth2-redirect": OPEN,
    "GET /openapi.json": OPEN,
    "GET /health/live": OPEN,
    "GET /health/ready": OPEN,
    "POST /auth/login": OPEN,
    "GET /resource": "cluster:read",
    "GET /agent": "agent:read",
    "PATCH /agent/{agent_id}": "agent:update",
    "POST /agent/{agent_id}/drain": "agent:update",
    "GET /resource-group": "resource-group:read",
    "GET /resource-group/{name}": "resource-group:read",
    "POST /resource-group": "resource-group:create",
    "PATCH /resource-group/{name}": "resource-group:update",
    "DELETE /resource-group/{name}": "resource-group:delete",
    "GET /resource-group/{name}/queue": "resource-group:read",
    "POST /resource-group/{name}/simulate": "resource-group:simulate",
    "GET /resource-group/{name}/replay": "resource-group:simulate",
    "POST /plan": "session:create",
    "GET /limit": "limit:read",
    "PUT /limit/{scope}/{name:path}": "limit:update",
    "DELETE /limit/{scope}/{name:path}": "limit:delete",
    "POST /session": "session:create",
    "GET /session": "session:read",
    "GET /session/{ref}": "session:read",
    "DELETE /session/{ref}": "session:delete",
    "GET /session/{ref}/why": "session:read",
    "GET /session/{ref}/events": "session:read",
    "GET /session/{ref}/logs": "session:logs",
    "POST /session/{ref}/exec": "session:execute",
    "GET /session/{ref}/stats": "session:read",
    "GET /stats": "session:read",
    "GET /metrics": "cluster:read",
    # Each field of a query has its own line below.
    "POST /graphql": SIGNED_IN,
    "POST /admin/gql": SIGNED_IN,
}
"""Method and path → a permission that must reach something. Whether it reaches this object, the query decides."""

FIELDS: dict[str, str] = {
    "Query.compute_session": "session:read",
    "Query.compute_session_list": "session:read",
}
"""The same for the root fields of GraphQL."""


def need(method: str, path: str) -> str:
    return ROUTES[f"{method} {path}"]


def is_open(method: str, path: str) -> bool:
    """As the OpenAPI document writes them."""
    return any(
        line.replace(":path}", "}") == f"{method.upper()} {path}" and name == OPEN for line, name in ROUTES.items()
    )


def check(who: Principal, permission: str) -> None:
    """Refuses whoever holds the permission nowhere."""
    if permission != SIGNED_IN and not who.reach(permission):
        raise forbidden(who, permission)


def check_table(routes: Iterable[BaseRoute]) -> None:
    """Every route has its line and every line its route; else the API does not start."""
    known = {
        f"{method} {path}"
        for route in routes
        if (path := getattr(route, "path", "")) and not path.startswith("/static")
        for method in (getattr(route, "methods", None) or {"WEBSOCKET"}) - {"HEAD"}
    }
    wrong = {f"{line} needs {name!r}" for line, name in ROUTES.items() if name not in {OPEN, SIGNED_IN, *PERMISSIONS}}
    if known != ROUTES.keys() or wrong:
        raise RuntimeError(
            f"api/permissions.py and the routes differ: without a line {sorted(known - ROUTES.keys())},"
            f" without a route {sorted(ROUTES.keys() - known)}, unknown {sorted(wrong)}"
        )


def check_fields(fields: Iterable[str]) -> None:
    """The same for GraphQL."""
    known = set(fields)
    wrong = {f"{line} needs {name!r}" for line, name in FIELDS.items() if name not in {SIGNED_IN, *PERMISSIONS}}
    if known != FIELDS.keys() or wrong:
        raise RuntimeError(
            f"api/permissions.py and the schema differ: without a line {sorted(known - FIELDS.keys())},"
            f" without a field {sorted(FIELDS.keys() - known)}, unknown {sorted(wrong)}"
        )
