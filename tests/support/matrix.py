"""Every route and every GraphQL field as a request about somebody's things, and who may do it: written by hand.

Targets: `own` is the asker itself; `ben` works in alpha/one as most askers do, `cleo` in alpha/two, `dan` in beta/one.
The same three places stand for projects and domains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ASKERS = ("root", "mona", "dora", "pia", "ada")
ALL, ALPHA, ONE, OWN, NONE = (
    frozenset({"own", "ben", "cleo", "dan"}),
    frozenset({"own", "ben", "cleo"}),
    frozenset({"own", "ben"}),
    frozenset({"own"}),
    frozenset[str](),
)
TARGETS = {
    "user": ("ben", "cleo", "dan", "own"),  # oneself last: some requests are the asker's last
    "project": ("ben", "cleo", "dan"),
    "domain": ("ben", "dan"),
    "cluster": ("ben",),
}
_OTHERS = ALL - OWN
_IN_ALPHA = frozenset({"ben", "cleo"})
_IN_ONE = frozenset({"ben"})
Who = tuple[frozenset[str], ...]

# Whose things each asker may do it on: root, mona, dora, pia, ada.
MAY: dict[str, dict[str, Who]] = {
    "user": {
        "session:read": (ALL, ALL, ALPHA, ONE, OWN),
        "session:update": (ALL, OWN, ALPHA, OWN, OWN),
        "session:commit": (ALL, OWN, ALPHA, OWN, OWN),
        "session:delete": (ALL, OWN, ALPHA, ONE, OWN),
        "session:logs": (ALL, OWN, ALPHA, ONE, OWN),
        "session:execute": (ALL, OWN, ALPHA, OWN, OWN),
        "session:download": (ALL, OWN, ALPHA, OWN, OWN),
        "session:upload": (ALL, OWN, ALPHA, OWN, OWN),
        "session:connect": (ALL, OWN, ALPHA, OWN, OWN),
        "user:read": (ALL, ALL, ALPHA, ONE, OWN),
        "user:update": (ALL, NONE, ALPHA, NONE, NONE),
        "user:delete": (ALL, NONE, ALPHA, NONE, NONE),
        "user:purge": (ALL, NONE, ALPHA, NONE, NONE),
        "user:secrets": (_OTHERS, NONE, _IN_ALPHA, NONE, NONE),  # a password or second factor, not of oneself
        "keypair:read": (ALL, ALL, ALPHA, OWN, OWN),
        "keypair:create": (ALL, OWN, ALPHA, OWN, OWN),
        "keypair:update": (ALL, OWN, ALPHA, OWN, OWN),
        "keypair:delete": (ALL, OWN, ALPHA, OWN, OWN),
        "token:delete": (ALL, OWN, ALPHA, OWN, OWN),
        "role:assign": (ALL, NONE, ALPHA, NONE, NONE),
        "limit:read": (ALL, ALL, ALPHA, OWN, OWN),
        "limit:update": (ALL, NONE, ALPHA, NONE, NONE),
        "limit:delete": (ALL, NONE, ALPHA, NONE, NONE),
        "grant:create": (ALL, NONE, ALPHA, NONE, NONE),
        "grant:delete": (ALL, NONE, ALPHA, NONE, NONE),
    },
    "project": {
        "project:read": (_OTHERS, _OTHERS, _IN_ALPHA, _IN_ONE, _IN_ONE),
        "project:update": (_OTHERS, NONE, _IN_ALPHA, _IN_ONE, NONE),
        "project:delete": (_OTHERS, NONE, _IN_ALPHA, NONE, NONE),
        "project:purge": (_OTHERS, NONE, _IN_ALPHA, NONE, NONE),
        "secret:create": (_OTHERS, NONE, _IN_ALPHA, _IN_ONE, NONE),
        "secret:delete": (_OTHERS, NONE, _IN_ALPHA, _IN_ONE, NONE),
    },
    "domain": {
        "domain:read": (_OTHERS, _OTHERS, _IN_ALPHA, NONE, NONE),
        "domain:update": (_OTHERS, NONE, _IN_ALPHA, NONE, NONE),
        "domain:delete": (_OTHERS, NONE, NONE, NONE, NONE),
        "domain:purge": (_OTHERS, NONE, NONE, NONE, NONE),
        "project:create": (_OTHERS, NONE, _IN_ALPHA, NONE, NONE),
        "user:create": (_OTHERS, NONE, _IN_ALPHA, NONE, NONE),
    },
    "cluster": {
        "everybody": (_OTHERS, _OTHERS, _OTHERS, _OTHERS, _OTHERS),
        "all-readers": (_OTHERS, _OTHERS, NONE, NONE, NONE),
        "administrators": (_OTHERS, _OTHERS, _OTHERS, NONE, NONE),
        "root": (_OTHERS, NONE, NONE, NONE, NONE),
    },
}


@dataclass(frozen=True, slots=True)
class Case:
    """A request; `{…}` are the target's things. `read` is what one needs to know that the thing exists."""

    kind: str
    may: str
    path: str = ""
    body: Any = None
    read: str = ""


_SESSION = {"kind": "user", "read": "session:read"}
_USER = {"kind": "user", "read": "user:read"}
_KEY = {"kind": "user", "read": "keypair:read"}
_PROJECT = {"kind": "project", "read": "project:read"}
_DOMAIN = {"kind": "domain", "read": "domain:read"}
_GRANT = {"scope": "user", "name": "{email}", "slot": "sessions", "amount": 1, "ends": "1d"}
_WISH = {"image": "python:3.12", "type": "batch", "command": ["true"]}

ROUTE_CASES: dict[str, Case] = {
    "GET /session/{ref}": Case(may="session:read", path="/session/{session}", **_SESSION),
    "GET /session/{ref}/why": Case(may="session:read", path="/session/{session}/why", **_SESSION),
    "GET /session/{ref}/events": Case(may="session:read", path="/session/{session}/events", **_SESSION),
    "GET /session/{ref}/progress": Case(may="session:read", path="/session/{session}/progress", **_SESSION),
    "GET /session/{ref}/stats": Case(may="session:read", path="/session/{session}/stats", **_SESSION),
    "POST /session/{ref}/extend": Case(
        may="session:update", path="/session/{session}/extend", body={"for": "2h"}, **_SESSION
    ),
    "GET /idle": Case("cluster", "everybody", "/idle"),
    "POST /session/{ref}/resize": Case(
        may="session:update", path="/session/{session}/resize", body={"resources": {"cpu": "2"}}, **_SESSION
    ),
    "POST /session/{ref}/restart": Case(may="session:update", path="/session/{session}/restart", **_SESSION),
    "PATCH /session/{ref}": Case(may="session:update", path="/session/{session}", **_SESSION),
    "POST /session/{ref}/commit": Case(
        may="session:commit", path="/session/{session}/commit", body={"image": "mine:1"}, **_SESSION
    ),
    "GET /stats": Case("cluster", "everybody", "/stats"),
    "GET /metrics": Case("cluster", "all-readers", "/metrics"),
    "DELETE /session/{ref}": Case(may="session:delete", path="/session/{session}", **_SESSION),
    "GET /session/{ref}/logs": Case(may="session:logs", path="/session/{session}/logs", **_SESSION),
    "POST /session/{ref}/exec": Case(
        may="session:execute", path="/session/{session}/exec", body={"command": ["true"]}, **_SESSION
    ),
    "WEBSOCKET /session/{ref}/terminal": Case(
        may="session:execute", path="/session/{session}/terminal?command=sh", **_SESSION
    ),
    "WEBSOCKET /session/{ref}/ports/{port}": Case(
        may="session:connect", path="/session/{session}/ports/8888", **_SESSION
    ),
    "GET /session/{ref}/files": Case(may="session:download", path="/session/{session}/files?path=/a", **_SESSION),
    "PUT /session/{ref}/files": Case(may="session:upload", path="/session/{session}/files?path=/a", **_SESSION),
    "GET /user/{ref}": Case(may="user:read", path="/user/{email}", **_USER),
    "PATCH /user/{ref}": Case(may="user:update", path="/user/{email}", body={"description": "x"}, **_USER),
    "DELETE /user/{ref}": Case(may="user:delete", path="/user/{email}", **_USER),
    "POST /user/{ref}/purge": Case(may="user:purge", path="/user/{email}/purge", **_USER),
    "POST /user/{ref}/password": Case(
        may="user:secrets", path="/user/{email}/password", body={"password": "a long new one"}, **_USER
    ),
    "POST /user/{ref}/unlock": Case(may="user:update", path="/user/{email}/unlock", **_USER),
    "DELETE /user/{ref}/totp": Case(may="user:secrets", path="/user/{email}/totp", **_USER),
    "GET /keypair/{access_key}": Case(may="keypair:read", path="/keypair/{key}", **_KEY),
    "PATCH /keypair/{access_key}": Case(may="keypair:update", path="/keypair/{key}", body={"is_active": True}, **_KEY),
    "DELETE /keypair/{access_key}": Case(may="keypair:delete", path="/keypair/{spare}", **_KEY),
    "POST /keypair": Case(may="keypair:create", path="/keypair", body={"user": "{email}"}, **_USER),
    "DELETE /token/{token_id}": Case("user", "token:delete", "/token/{token}", read="token:delete"),
    "POST /role/{name}/assignment": Case(
        may="role:assign",
        path="/role/member/assignment",
        body={"user": "{email}", "scope_kind": "project", "scope": "{path}"},
        **_USER,
    ),
    "DELETE /role/assignment/{assignment_id}": Case(may="role:assign", path="/role/assignment/{assignment}", **_USER),
    "GET /quota": Case("user", "limit:read", "/quota?scope=user&name={email}", read="limit:read"),
    "PUT /limit/{scope}/{name:path}": Case(
        "user", "limit:update", "/limit/user/{email}", {"max_sessions": 3}, "limit:read"
    ),
    "DELETE /limit/{scope}/{name:path}": Case("user", "limit:delete", "/limit/user/{email}", read="limit:read"),
    "POST /grant": Case("user", "grant:create", "/grant", _GRANT, "limit:read"),
    "DELETE /grant/{grant_id}": Case("user", "grant:delete", "/grant/{grant}", read="limit:read"),
    "GET /project/{ref}": Case(may="project:read", path="/project/{project}", **_PROJECT),
    "PATCH /project/{ref}": Case(
        may="project:update", path="/project/{project}", body={"description": "x"}, **_PROJECT
    ),
    "DELETE /project/{ref}": Case(may="project:delete", path="/project/{project}", **_PROJECT),
    "POST /project/{ref}/purge": Case(may="project:purge", path="/project/{project}/purge", **_PROJECT),
    "GET /project/{ref}/member": Case(may="project:read", path="/project/{project}/member", **_PROJECT),
    "POST /project/{ref}/member": Case(
        may="project:update", path="/project/{project}/member", body={"user": "{email}"}, **_PROJECT
    ),
    "DELETE /project/{ref}/member/{user}": Case(
        may="project:update", path="/project/{project}/member/{email}", **_PROJECT
    ),
    "PUT /secret/{name}": Case(
        may="secret:create", path="/secret/new", body={"value": "x", "project": "{project}"}, **_PROJECT
    ),
    "DELETE /secret/{name}": Case(may="secret:delete", path="/secret/old?project={project}", **_PROJECT),
    "GET /domain/{name}": Case(may="domain:read", path="/domain/{domain}", **_DOMAIN),
    "PATCH /domain/{name}": Case(may="domain:update", path="/domain/{domain}", body={"description": "x"}, **_DOMAIN),
    "DELETE /domain/{name}": Case(may="domain:delete", path="/domain/{domain}", **_DOMAIN),
    "POST /domain/{name}/purge": Case(may="domain:purge", path="/domain/{domain}/purge", **_DOMAIN),
    "POST /project": Case(
        may="project:create", path="/project", body={"domain": "{domain}", "name": "{fresh}"}, **_DOMAIN
    ),
    "POST /user": Case(
        may="user:create",
        path="/user",
        body={"email": "{fresh}@x.org", "domain": "{domain}", "projects": ["one"]},
        **_DOMAIN,
    ),
    "POST /domain": Case("cluster", "root", "/domain", {"name": "{fresh}"}),
    "PATCH /agent/{agent_id}": Case("cluster", "root", "/agent/n1", {"schedulable": True}),
    "POST /agent/{agent_id}/drain": Case("cluster", "root", "/agent/n1/drain"),
    "DELETE /agent/{agent_id}": Case("cluster", "root", "/agent/n1"),
    "POST /resource-group": Case("cluster", "root", "/resource-group", {"name": "{fresh}"}),
    "PATCH /resource-group/{name}": Case("cluster", "root", "/resource-group/default", {"description": "x"}),
    "DELETE /resource-group/{name}": Case("cluster", "root", "/resource-group/spare"),
    "POST /resource-group/{name}/simulate": Case("cluster", "root", "/resource-group/default/simulate", {}),
    "GET /resource-group/{name}/replay": Case("cluster", "root", "/resource-group/default/replay"),
    "POST /policy": Case("cluster", "root", "/policy", {"kind": "user", "name": "{fresh}"}),
    "PATCH /policy/{kind}/{name}": Case("cluster", "root", "/policy/user/default", {"description": "x"}),
    "DELETE /policy/{kind}/{name}": Case("cluster", "root", "/policy/user/spare"),
    "POST /role": Case("cluster", "root", "/role", {"name": "{fresh}", "permissions": ["session:read"]}),
    "PATCH /role/{name}": Case("cluster", "root", "/role/spare", {"description": "x"}),
    "DELETE /role/{name}": Case("cluster", "root", "/role/spare"),
    "GET /image": Case("cluster", "everybody", "/image"),
    "POST /image/pull": Case("cluster", "root", "/image/pull", {"image": "{fresh}:1"}),
    "POST /image/remove": Case("cluster", "root", "/image/remove", {"image": "{fresh}:1"}),
    "GET /image/order/{order_id}": Case("cluster", "root", "/image/order/{order}"),
    "GET /image/allowed": Case("cluster", "everybody", "/image/allowed"),
    "POST /image/allowed": Case("cluster", "root", "/image/allowed", {"pattern": "{fresh}:*"}),
    "DELETE /image/allowed": Case("cluster", "root", "/image/allowed?pattern=spare"),
    "GET /registry": Case("cluster", "root", "/registry"),
    "PUT /registry/{host}": Case("cluster", "root", "/registry/{fresh}.example", {"username": "x", "password": "y"}),
    "DELETE /registry/{host}": Case("cluster", "root", "/registry/spare.example"),
    "GET /audit/verify": Case("cluster", "all-readers", "/audit/verify"),
    "GET /domain": Case("cluster", "administrators", "/domain"),
    **{
        f"GET {path}": Case("cluster", "everybody", path)
        for path in (
            "/token",
            "/resource",
            "/agent",
            "/resource-group",
            "/audit",
            "/audit/export",
            "/limit",
            "/policy",
            "/grant",
            "/project",
            "/user",
            "/keypair",
            "/role",
            "/assignment",
            "/secret",
            "/session",
        )
    },
    "GET /resource-group/{name}": Case("cluster", "everybody", "/resource-group/default"),
    "GET /resource-group/{name}/queue": Case("cluster", "everybody", "/resource-group/default/queue"),
    "GET /policy/{kind}/{name}": Case("cluster", "everybody", "/policy/user/default"),
    "GET /role/{name}": Case("cluster", "everybody", "/role/member"),
    "GET /role/{name}/assignment": Case("cluster", "everybody", "/role/member/assignment"),
    "POST /plan": Case("cluster", "everybody", "/plan", _WISH),
    "POST /session": Case("cluster", "everybody", "/session", _WISH),
    "POST /token": Case("cluster", "everybody", "/token", {"name": "{fresh}", "permissions": ["session:read"]}),
}

# The field with its arguments; the rest is the same for all.
FIELD_CASES: dict[str, Case] = {
    "Query.compute_session": Case(may="session:read", path='(id: "{session}") {{ id }}', **_SESSION),
    "Query.user": Case(may="user:read", path='(email: "{email}") {{ email }}', **_USER),
    "Query.keypair": Case(may="keypair:read", path='(access_key: "{key}") {{ access_key }}', **_KEY),
    "Query.group": Case(may="project:read", path='(id: "{project}") {{ id }}', **_PROJECT),
    "Query.groups_by_name": Case(
        may="project:read", path='(name: "{bare}", domain_name: "{domain}") {{ id }}', **_PROJECT
    ),
    "Query.group_members": Case(may="project:read", path='(group: "{project}") {{ user }}', **_PROJECT),
    "Query.domain": Case(may="domain:read", path='(name: "{domain}") {{ name }}', **_DOMAIN),
    "Query.quotas": Case("user", "limit:read", '(scope: "user", name: "{email}") {{ name }}', read="limit:read"),
    "Query.domains": Case("cluster", "administrators", "{{ name }}"),
    "Query.compute_session_list": Case("cluster", "everybody", "(limit: 1, offset: 0) {{ total_count }}"),
    "Query.user_list": Case("cluster", "everybody", "(limit: 1, offset: 0) {{ total_count }}"),
    "Query.keypair_list": Case("cluster", "everybody", "(limit: 1, offset: 0) {{ total_count }}"),
    **{
        f"Query.{name}": Case("cluster", "everybody", f"{{{{ {field} }}}}")
        for name, field in {
            "groups": "id",
            "roles": "name",
            "role_assignments": "id",
            "policies": "name",
            "limits": "name",
            "grants": "id",
        }.items()
    },
    "Mutation.create_domain": Case("cluster", "root", '(name: "{fresh}", props: {{}}) {{ name }}'),
    "Mutation.modify_domain": Case(
        may="domain:update", path='(name: "{domain}", props: {{description: "x"}}) {{ name }}', **_DOMAIN
    ),
    "Mutation.delete_domain": Case(may="domain:delete", path='(name: "{domain}") {{ owns }}', **_DOMAIN),
    "Mutation.purge_domain": Case(may="domain:purge", path='(name: "{domain}") {{ owns }}', **_DOMAIN),
    "Mutation.create_group": Case(
        may="project:create", path='(name: "{fresh}", domain_name: "{domain}", props: {{}}) {{ id }}', **_DOMAIN
    ),
    "Mutation.modify_group": Case(
        may="project:update", path='(group: "{project}", props: {{description: "x"}}) {{ id }}', **_PROJECT
    ),
    "Mutation.delete_group": Case(may="project:delete", path='(group: "{project}") {{ owns }}', **_PROJECT),
    "Mutation.purge_group": Case(may="project:purge", path='(group: "{project}") {{ owns }}', **_PROJECT),
    "Mutation.add_group_member": Case(
        may="project:update", path='(group: "{project}", user: "{email}") {{ user }}', **_PROJECT
    ),
    "Mutation.remove_group_member": Case(
        may="project:update", path='(group: "{project}", user: "{email}") {{ ok }}', **_PROJECT
    ),
    "Mutation.create_user": Case(
        may="user:create",
        path='(email: "{fresh}@x.org", props: {{domain: "{domain}", projects: ["one"]}}) {{ user {{ email }} }}',
        **_DOMAIN,
    ),
    "Mutation.modify_user": Case(
        may="user:update", path='(email: "{email}", props: {{description: "x"}}) {{ email }}', **_USER
    ),
    "Mutation.delete_user": Case(may="user:delete", path='(email: "{email}") {{ owns }}', **_USER),
    "Mutation.purge_user": Case(may="user:purge", path='(email: "{email}") {{ owns }}', **_USER),
    "Mutation.set_user_password": Case(
        may="user:secrets", path='(email: "{email}", password: "a long new one") {{ ok }}', **_USER
    ),
    "Mutation.unlock_user": Case(may="user:update", path='(email: "{email}") {{ ok }}', **_USER),
    "Mutation.remove_user_totp": Case(may="user:secrets", path='(email: "{email}") {{ ok }}', **_USER),
    "Mutation.create_keypair": Case(may="keypair:create", path='(user: "{email}") {{ access_key }}', **_USER),
    "Mutation.modify_keypair": Case(
        may="keypair:update", path='(access_key: "{key}", props: {{is_active: true}}) {{ access_key }}', **_KEY
    ),
    "Mutation.delete_keypair": Case(may="keypair:delete", path='(access_key: "{spare}") {{ ok }}', **_KEY),
    "Mutation.create_role": Case("cluster", "root", '(name: "{fresh}", permissions: ["session:read"]) {{ name }}'),
    "Mutation.modify_role": Case("cluster", "root", '(name: "spare", description: "x") {{ name }}'),
    "Mutation.delete_role": Case("cluster", "root", '(name: "spare") {{ ok }}'),
    "Mutation.assign_role": Case(
        may="role:assign",
        path='(role: "member", user: "{email}", scope_kind: "project", scope: "{path}") {{ id }}',
        **_USER,
    ),
    "Mutation.revoke_role": Case(may="role:assign", path='(id: "{assignment}") {{ ok }}', **_USER),
    "Mutation.create_policy": Case("cluster", "root", '(kind: "user", name: "{fresh}", props: {{}}) {{ name }}'),
    "Mutation.modify_policy": Case(
        "cluster", "root", '(kind: "user", name: "default", props: {{description: "x"}}) {{ name }}'
    ),
    "Mutation.delete_policy": Case("cluster", "root", '(kind: "user", name: "spare") {{ ok }}'),
    "Mutation.put_limit": Case(
        "user",
        "limit:update",
        '(scope: "user", name: "{email}", props: {{max_sessions: 3}}) {{ name }}',
        None,
        "limit:read",
    ),
    "Mutation.delete_limit": Case(
        "user", "limit:delete", '(scope: "user", name: "{email}") {{ ok }}', None, "limit:read"
    ),
    "Mutation.give_grant": Case(
        "user",
        "grant:create",
        '(scope: "user", name: "{email}", slot: "sessions", amount: "1", ends: "1d") {{ id }}',
        None,
        "limit:read",
    ),
    "Mutation.revoke_grant": Case("user", "grant:delete", '(id: "{grant}") {{ ok }}', None, "limit:read"),
}
