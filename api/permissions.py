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
    "GET /token": "token:read",
    "POST /token": "token:create",
    "DELETE /token/{token_id}": "token:delete",
    "POST /auth/refresh": OPEN,
    "POST /auth/password-expired": OPEN,
    "GET /auth/oidc/login": OPEN,
    "GET /auth/oidc/callback": OPEN,
    "POST /auth/oidc/exchange": OPEN,
    "POST /auth/logout": SIGNED_IN,
    "GET /auth/logins": SIGNED_IN,
    "DELETE /auth/logins/{login_id}": SIGNED_IN,
    "POST /auth/password": SIGNED_IN,
    "POST /auth/totp": SIGNED_IN,
    "POST /auth/totp/confirm": SIGNED_IN,
    "DELETE /auth/totp": SIGNED_IN,
    "GET /resource": "cluster:read",
    "GET /agent": "agent:read",
    "PATCH /agent/{agent_id}": "agent:update",
    "POST /agent/{agent_id}/drain": "agent:update",
    "DELETE /agent/{agent_id}": "agent:delete",
    "GET /resource-group": "resource-group:read",
    "GET /resource-group/{name}": "resource-group:read",
    "POST /resource-group": "resource-group:create",
    "PATCH /resource-group/{name}": "resource-group:update",
    "DELETE /resource-group/{name}": "resource-group:delete",
    "GET /resource-group/{name}/queue": "resource-group:read",
    "POST /resource-group/{name}/simulate": "resource-group:simulate",
    "GET /resource-group/{name}/replay": "resource-group:simulate",
    "POST /plan": "session:create",
    "GET /audit": "audit:read",
    "GET /audit/export": "audit:read",
    "GET /audit/verify": "audit:read",
    "GET /limit": "limit:read",
    "PUT /limit/{scope}/{name:path}": "limit:update",
    "DELETE /limit/{scope}/{name:path}": "limit:delete",
    "GET /policy": "policy:read",
    "POST /policy": "policy:create",
    "GET /policy/{kind}/{name}": "policy:read",
    "PATCH /policy/{kind}/{name}": "policy:update",
    "DELETE /policy/{kind}/{name}": "policy:delete",
    "GET /quota": "limit:read",
    "GET /grant": "grant:read",
    "POST /grant": "grant:create",
    "DELETE /grant/{grant_id}": "grant:delete",
    "GET /whoami": SIGNED_IN,
    "PATCH /whoami": SIGNED_IN,
    "GET /domain": "domain:read",
    "POST /domain": "domain:create",
    "GET /domain/{name}": "domain:read",
    "PATCH /domain/{name}": "domain:update",
    "DELETE /domain/{name}": "domain:delete",
    "POST /domain/{name}/purge": "domain:purge",
    "GET /project": "project:read",
    "POST /project": "project:create",
    "GET /project/{ref}": "project:read",
    "PATCH /project/{ref}": "project:update",
    "DELETE /project/{ref}": "project:delete",
    "POST /project/{ref}/purge": "project:purge",
    "GET /project/{ref}/member": "project:read",
    "POST /project/{ref}/member": "project:update",
    "DELETE /project/{ref}/member/{user}": "project:update",
    "GET /user": "user:read",
    "POST /user": "user:create",
    "GET /user/{ref}": "user:read",
    "PATCH /user/{ref}": "user:update",
    "DELETE /user/{ref}": "user:delete",
    "POST /user/{ref}/purge": "user:purge",
    "POST /user/{ref}/password": "user:update",
    "POST /user/{ref}/unlock": "user:update",
    "DELETE /user/{ref}/totp": "user:update",
    "GET /keypair": "keypair:read",
    "POST /keypair": "keypair:create",
    "GET /keypair/{access_key}": "keypair:read",
    "PATCH /keypair/{access_key}": "keypair:update",
    "DELETE /keypair/{access_key}": "keypair:delete",
    "GET /role": "role:read",
    "POST /role": "role:create",
    "GET /role/{name}": "role:read",
    "PATCH /role/{name}": "role:update",
    "DELETE /role/{name}": "role:delete",
    "GET /role/{name}/assignment": "user:read",
    "POST /role/{name}/assignment": "role:assign",
    "DELETE /role/assignment/{assignment_id}": "role:assign",
    "GET /assignment": "user:read",
    "GET /secret": "secret:read",
    "PUT /secret/{name}": "secret:create",
    "DELETE /secret/{name}": "secret:delete",
    "GET /image": "image:read",
    "POST /image/pull": "image:pull",
    "POST /image/remove": "image:remove",
    "GET /image/order/{order_id}": "image:pull",
    "GET /image/allowed": "image:read",
    "POST /image/allowed": "image:allow",
    "DELETE /image/allowed": "image:allow",
    "GET /registry": "registry:read",
    "PUT /registry/{host}": "registry:update",
    "DELETE /registry/{host}": "registry:delete",
    "POST /session": "session:create",
    "GET /session": "session:read",
    "GET /session/{ref}": "session:read",
    "DELETE /session/{ref}": "session:delete",
    "GET /session/{ref}/why": "session:read",
    "GET /session/{ref}/events": "session:read",
    "GET /session/{ref}/logs": "session:logs",
    "PATCH /session/{ref}": "session:update",
    "POST /session/{ref}/resize": "session:update",
    "POST /session/{ref}/restart": "session:update",
    "POST /session/{ref}/commit": "session:commit",
    "POST /session/{ref}/exec": "session:execute",
    "WEBSOCKET /session/{ref}/terminal": "session:execute",
    "GET /session/{ref}/files": "session:download",
    "PUT /session/{ref}/files": "session:upload",
    "WEBSOCKET /session/{ref}/ports/{port}": "session:connect",
    "GET /session/{ref}/stats": "session:read",
    "POST /session/{ref}/extend": "session:update",
    "GET /idle": "session:read",
    "GET /session/{ref}/progress": "session:read",
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
    "Query.domain": "domain:read",
    "Query.domains": "domain:read",
    "Query.group": "project:read",
    "Query.groups": "project:read",
    "Query.groups_by_name": "project:read",
    "Query.group_members": "project:read",
    "Query.user": "user:read",
    "Query.user_list": "user:read",
    "Query.keypair": "keypair:read",
    "Query.keypair_list": "keypair:read",
    "Query.whoami": SIGNED_IN,
    "Query.roles": "role:read",
    "Query.role_assignments": "user:read",
    "Query.policies": "policy:read",
    "Query.limits": "limit:read",
    "Query.quotas": "limit:read",
    "Query.grants": "grant:read",
    "Mutation.create_domain": "domain:create",
    "Mutation.modify_domain": "domain:update",
    "Mutation.delete_domain": "domain:delete",
    "Mutation.purge_domain": "domain:purge",
    "Mutation.create_group": "project:create",
    "Mutation.modify_group": "project:update",
    "Mutation.delete_group": "project:delete",
    "Mutation.purge_group": "project:purge",
    "Mutation.add_group_member": "project:update",
    "Mutation.remove_group_member": "project:update",
    "Mutation.create_user": "user:create",
    "Mutation.modify_user": "user:update",
    "Mutation.delete_user": "user:delete",
    "Mutation.purge_user": "user:purge",
    "Mutation.set_user_password": "user:update",
    "Mutation.unlock_user": "user:update",
    "Mutation.remove_user_totp": "user:update",
    "Mutation.create_keypair": "keypair:create",
    "Mutation.modify_keypair": "keypair:update",
    "Mutation.delete_keypair": "keypair:delete",
    "Mutation.create_role": "role:create",
    "Mutation.modify_role": "role:update",
    "Mutation.delete_role": "role:delete",
    "Mutation.assign_role": "role:assign",
    "Mutation.revoke_role": "role:assign",
    "Mutation.create_policy": "policy:create",
    "Mutation.modify_policy": "policy:update",
    "Mutation.delete_policy": "policy:delete",
    "Mutation.put_limit": "limit:update",
    "Mutation.delete_limit": "limit:delete",
    "Mutation.give_grant": "grant:create",
    "Mutation.revoke_grant": "grant:delete",
}
"""The same for the root fields of GraphQL."""


# Posted, since the wish is long; nothing is changed by them.
CHANGING_NOTHING = frozenset(
    {
        "POST /plan",
        "POST /resource-group/{name}/simulate",
        "POST /graphql",  # each of its mutations is told by itself
        "POST /admin/gql",
    }
)


def need(method: str, path: str) -> str:
    return ROUTES[f"{method} {path}"]


def operation(needed: str, path: str) -> str:
    """As the audit names it: the permission, or `auth:login` for a route that needs none."""
    if needed not in (OPEN, SIGNED_IN):
        return needed
    words = [part for part in path.split("/") if part and not part.startswith("{")]
    return ":".join([*words[:1], *words[-1:]])


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
