"""What clients may send about domains, projects, users, key pairs and roles."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.schemas import Text
from moorage.db.users import NewUser
from moorage.domain.permissions import ScopeKind
from moorage.domain.tenancy import Rank

Limit = Annotated[int, Query(ge=1, le=100)]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]
Named = Annotated[Text, Field(max_length=320)]
Words = Annotated[Text, Field(max_length=1024)]
Called = Annotated[Text, Field(max_length=128)]
Password = Annotated[Text, Field(min_length=1, max_length=1024)]
Status = Literal["active", "inactive", "before-verification"]


class Wish(BaseModel):
    """Unknown fields are refused; of a change only what was sent counts."""

    model_config = ConfigDict(extra="forbid")

    def sent(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class CreateDomain(Wish):
    name: Named
    description: Words = ""
    allowed_registries: list[Named] = Field(default_factory=list, max_length=64)


class ChangeDomain(Wish):
    description: Words = ""
    is_active: bool = True
    allowed_registries: list[Named] = Field(default_factory=list, max_length=64)


class CreateProject(Wish):
    domain: Named
    name: Named
    description: Words = ""
    policy: Named = "default"


class ChangeProject(Wish):
    description: Words = ""
    is_active: bool = True
    policy: Named = "default"


class AddMember(Wish):
    user: Named = Field(description="an e-mail address of the project's domain")


class CreateUser(Wish):
    email: Named
    domain: Named = "default"
    projects: list[Named] = Field(
        default=["default"], min_length=1, max_length=100, description="names in the domain; the first is the main one"
    )
    password: Password | None = Field(default=None, description="without one: keys and OpenID Connect only")
    name: Called = ""
    full_name: Called = ""
    description: Words = ""
    role: Rank = Rank.USER
    policy: Named = "default"
    status: Status = "active"
    need_password_change: bool = False
    allowed_client_ip: list[Named] = Field(default_factory=list, max_length=64)
    keypair: bool = Field(default=True, description="make a key pair; its secret key is shown once")

    def checked(self) -> NewUser:
        values = self.model_dump(exclude={"keypair"})
        return NewUser(
            **{
                **values,
                "projects": tuple(self.projects),
                "allowed_client_ip": tuple(self.allowed_client_ip),
                "has_keypair": self.keypair,
            }
        )


class ChangeSelf(Wish):
    name: Called = ""
    full_name: Called = ""
    description: Words = ""
    project: Named = Field(default="", description="the main project, by name")
    allowed_client_ip: list[Named] = Field(default_factory=list, max_length=64)


class ChangeUser(ChangeSelf):
    role: Rank = Rank.USER
    policy: Named = "default"
    status: Status = "active"
    need_password_change: bool = False


class SetPassword(Wish):
    password: Password | None = Field(description="null: no log-in by password any more")
    need_change: bool = Field(default=True, description="at the next log-in")


class CreateKeypair(Wish):
    user: Named | None = Field(default=None, description="an e-mail address; oneself if left out")


class ChangeKeypair(Wish):
    is_active: bool = True
    is_main: bool = True
    policy: Named = "default"
    rate_limit: int | None = Field(default=None, ge=1, lt=2**31, description="requests in 900 s; null is none")


class CreateRole(Wish):
    name: Named
    permissions: list[Named] = Field(max_length=200, description="entity:operation; * for all of either")
    description: Words = ""


class ChangeRole(Wish):
    permissions: list[Named] = Field(default_factory=list, max_length=200)
    description: Words = ""


class Assign(Wish):
    user: Named
    scope_kind: ScopeKind
    scope: Named = Field(default="", description="a domain, domain/project, or an e-mail address; none for global")
    expires_at: AwareDatetime | None = None
