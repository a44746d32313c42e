"""Who may do what: the table of entities and operations, the built-in roles, and how far a permission reaches.

A permission is `entity:operation`. A role is a set of them, held in a scope: everywhere, in a domain, in a project, or
for one user. What a role in a scope permits, it permits on all that lies in that scope, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from moorage.domain.errors import InvalidRequest

# Entity → what may be done with it. `update` of a project includes its members, of a user its password and status.
OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "domain": ("create", "read", "update", "delete", "purge"),
    "project": ("create", "read", "update", "delete", "purge"),
    "user": ("create", "read", "update", "delete", "purge", "act-as"),
    "keypair": ("create", "read", "update", "delete"),
    "token": ("create", "read", "delete"),
    "role": ("create", "read", "update", "delete", "assign"),
    "policy": ("create", "read", "update", "delete"),
    "limit": ("read", "update", "delete"),
    "grant": ("create", "read", "delete"),
    "secret": ("create", "read", "update", "delete"),
    "audit": ("read",),
    "session": (
        "create",
        "read",
        "update",
        "delete",
        "logs",
        "execute",
        "commit",
        "download",
        "upload",
        "connect",
    ),
    "agent": ("read", "update", "delete"),
    "resource-group": ("create", "read", "update", "delete", "simulate"),
    "cluster": ("read",),
    "image": ("read", "pull", "remove", "allow"),
    "registry": ("read", "update", "delete"),
}
PERMISSIONS = frozenset(f"{entity}:{one}" for entity, operations in OPERATIONS.items() for one in operations)


class ScopeKind(StrEnum):
    """Where a role is held, the widest first."""

    GLOBAL = "global"
    DOMAIN = "domain"
    PROJECT = "project"
    USER = "user"


def _all_of(*entities: str) -> frozenset[str]:
    return frozenset(f"{entity}:{one}" for entity in entities for one in OPERATIONS[entity])


_READ = frozenset(name for name in PERMISSIONS if name.endswith(":read"))
# Whoever is signed in sees what the cluster is, wherever the role is held.
_ABOUT_THE_CLUSTER = frozenset(
    {"agent:read", "resource-group:read", "cluster:read", "role:read", "policy:read", "image:read"}
)

BUILT_IN: Mapping[str, frozenset[str]] = {
    # Everything, everywhere.
    "superadmin": PERMISSIONS,
    # Sees everything everywhere and changes nothing; neither logs nor secrets.
    "monitor": _READ - {"secret:read", "token:read", "registry:read"},
    # Of a domain: its projects and users with all they have, within what the domain was given.
    "domain-admin": _ABOUT_THE_CLUSTER
    | _all_of("project", "user", "keypair", "grant", "secret", "session")
    | {"domain:read", "domain:update", "role:assign", "limit:read", "limit:update", "limit:delete"}
    | {"token:read", "token:delete", "audit:read"},
    # Of a project: its members' sessions, its secrets, who belongs to it.
    "project-admin": _ABOUT_THE_CLUSTER
    | {"project:read", "project:update", "user:read", "limit:read", "grant:read", "audit:read"}
    | {"session:read", "session:delete", "session:logs"}
    | _all_of("secret"),
    # Of a project: works in it.
    "member": _ABOUT_THE_CLUSTER | {"project:read", "limit:read", "grant:read", "session:create", "secret:read"},
    # Everybody's, for oneself.
    "user": _ABOUT_THE_CLUSTER
    | _all_of("session", "secret", "token", "keypair")
    | {"user:read", "limit:read", "grant:read", "audit:read"},
}
"""Built-in roles. A user's own rank gives `superadmin` or `monitor` everywhere, or `domain-admin` of its domain; every
user holds `user` for itself, and `member` of each project that it belongs to."""

HELD_IN: Mapping[str, tuple[ScopeKind, ...]] = {
    "superadmin": (ScopeKind.GLOBAL,),
    "monitor": (ScopeKind.GLOBAL, ScopeKind.DOMAIN, ScopeKind.PROJECT),
    "domain-admin": (ScopeKind.DOMAIN,),
    "project-admin": (ScopeKind.PROJECT,),
    "member": (ScopeKind.PROJECT,),
    "user": (ScopeKind.USER,),
}
"""Where a built-in role may be held; a custom one anywhere."""

# They lie in no domain: whoever may read them anywhere sees them, and only who may everywhere changes them.
_IN_NO_SCOPE = frozenset({"agent", "resource-group", "cluster", "role", "policy", "image", "registry"})
_OF_A_SCOPE = frozenset({"role:assign"})


@dataclass(frozen=True, slots=True)
class Held:
    """A role as it is held: its permissions, and where. `scope_id`: a domain's name, else an id; global has none."""

    scope: ScopeKind
    scope_id: str
    permissions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Reach:
    """Whose things somebody may do one operation on. Domains by name, projects and users by id."""

    everywhere: bool = False
    domains: frozenset[str] = frozenset()
    projects: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return self.everywhere or bool(self.domains or self.projects or self.users)

    def covers(self, *, domain: str = "", projects: Iterable[str] = (), user: str = "") -> bool:
        """Whether something of this domain, these projects or this user lies within."""
        return (
            self.everywhere
            or domain in self.domains
            or user in self.users
            or (bool(self.projects) and not self.projects.isdisjoint(projects))
        )


NOWHERE, EVERYWHERE = Reach(), Reach(everywhere=True)


def reach(held: Iterable[Held], permission: str) -> Reach:
    """How far a permission goes for whoever holds these roles. The one place where roles are weighed."""
    entity, _, operation = permission.partition(":")
    assert permission in PERMISSIONS, permission
    scopes: dict[ScopeKind, set[str]] = {kind: set() for kind in ScopeKind}
    for one in held:
        if permission in one.permissions:
            scopes[one.scope].add(one.scope_id)
    if scopes[ScopeKind.GLOBAL]:
        return EVERYWHERE
    if entity in _IN_NO_SCOPE and permission not in _OF_A_SCOPE:
        return EVERYWHERE if operation == "read" and any(scopes.values()) else NOWHERE
    return Reach(
        domains=frozenset(scopes[ScopeKind.DOMAIN]),
        projects=frozenset(scopes[ScopeKind.PROJECT]),
        users=frozenset(scopes[ScopeKind.USER]),
    )


def exceeds(mine: Iterable[Held], theirs: Iterable[Held], *, them: str, domains: Mapping[str, str]) -> bool:
    """Whether theirs go beyond mine in any permission, where it is held.

    `them` is whose the second ones are: what everybody holds for himself counts for nothing. `domains` tells in which
    domain the projects and users of their scopes lie, by id; one that is missing lies in none of mine.
    """
    own = tuple(mine)
    reaches: dict[str, Reach] = {}
    for one in theirs:
        everybodys = BUILT_IN["user"] if (one.scope, one.scope_id) == (ScopeKind.USER, them) else frozenset()
        for permission in one.permissions - everybodys:
            if permission not in reaches:
                reaches[permission] = reach(own, permission)
            if reach((one,), permission) and not _covers(reaches[permission], one, domains):
                return True
    return False


def _covers(mine: Reach, one: Held, domains: Mapping[str, str]) -> bool:
    """Whether my reach takes in all of the scope that one is held in."""
    if mine.everywhere or one.scope is ScopeKind.GLOBAL:
        return mine.everywhere
    domain = one.scope_id if one.scope is ScopeKind.DOMAIN else domains.get(one.scope_id, "")
    return mine.covers(
        domain=domain,
        projects=(one.scope_id,) if one.scope is ScopeKind.PROJECT else (),
        user=one.scope_id if one.scope is ScopeKind.USER else "",
    )


def checked_permissions(names: Iterable[str]) -> frozenset[str]:
    """The permissions that the names mean; `*` stands for every entity or operation. Refuses what means nothing."""
    found: set[str] = set()
    for name in names:
        entity, _, operation = name.partition(":")
        meant = {
            one for one in PERMISSIONS if entity in ("*", one.split(":")[0]) and operation in ("*", one.split(":")[1])
        }
        if not meant:
            raise InvalidRequest(
                f"{name[:80]!r} is no permission; it is entity:operation, for example session:read or *:read",
                code="unknown-permission",
                hint=f"entities are {', '.join(OPERATIONS)}",
                data={"unknown": name[:80]},
            )
        found |= meant
    return frozenset(found)
