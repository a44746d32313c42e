"""Who asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from moorage.domain.errors import Forbidden
from moorage.domain.permissions import Held, Reach, reach


class Rank(StrEnum):
    """What a user is, as Backend.AI's clients know it. `admin` is one of its domain."""

    SUPERADMIN = "superadmin"
    ADMIN = "admin"
    MONITOR = "monitor"
    USER = "user"


class PolicyKind(StrEnum):
    """Whom a resource policy is for. Domains have limits of their own and no policy."""

    KEYPAIR = "keypair"
    USER = "user"
    PROJECT = "project"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, and with what it holds. `project` is where its sessions go unless they name another.

    `actor` is the e-mail address of whoever really asks, when it acts as this user.
    """

    user_id: str
    email: str
    role: str
    domain: str
    project_id: str
    project: str = ""
    access_key: str = ""  # the one used, else the main one, else the oldest active one
    projects: dict[str, str] = field(default_factory=dict)  # name in the own domain → id, of all it belongs to
    held: tuple[Held, ...] = ()
    credential: str = ""  # what was shown: keypair, token or login, with its id; for the audit
    rate_limit: int | None = None  # requests in 900 s
    addresses: tuple[str, ...] = ()  # where it may ask from; none is everywhere
    actor: str = ""
    actor_id: str = ""

    @property
    def sees_all(self) -> bool:
        """Whether every session of everybody may be read."""
        return self.reach("session:read").everywhere

    @property
    def named(self) -> str:
        """As timelines name it: who is answerable, and for whom."""
        return f"user:{self.actor} as {self.email}" if self.actor else f"user:{self.email}"

    def reach(self, permission: str) -> Reach:
        """How far a permission (`entity:operation`) goes."""
        return reach(self.held, permission)

    def demand(self, permission: str, *, domain: str = "", projects: tuple[str, ...] = (), user: str = "") -> None:
        """Forbidden, unless the permission reaches something of this domain, these projects or this user."""
        if not self.reach(permission).covers(domain=domain, projects=projects, user=user):
            raise forbidden(self, permission)


def forbidden(who: Principal, permission: str) -> Forbidden:
    return Forbidden(
        f"{who.email} may not do this: it needs {permission} here",
        hint="ask an administrator of the project or domain",
        data={"permission": permission},
    )
