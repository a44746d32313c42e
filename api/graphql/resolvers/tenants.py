"""Domains, projects (groups), users and key pairs over GraphQL: the same functions that REST calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ariadne import MutationType, ObjectType, QueryType

from api import removal
from api.graphql.asked import Info, checked, or_none, page
from api.tenant_schemas import (
    ChangeDomain,
    ChangeKeypair,
    ChangeProject,
    ChangeUser,
    CreateDomain,
    CreateProject,
    CreateUser,
)
from moorage.db import departures, domains, keypairs, members, projects, user_access, users, whoami
from moorage.domain.errors import InvalidRequest

query, mutation = QueryType(), MutationType()
Row = Mapping[str, Any]
_DONE = {"ok": True}


def _renamed(kind: str, names: Mapping[str, str]) -> ObjectType:
    found = ObjectType(kind)
    for shown, column in names.items():
        found.set_alias(shown, column)
    return found


_USER = {
    "uuid": "id",
    "username": "name",
    "domain_name": "domain",
    "main_group": "project",
    "groups": "projects",
    "resource_policy": "policy",
    "totp_activated": "has_totp",
}
OBJECTS = [
    _renamed("Domain", {"allowed_docker_registries": "allowed_registries"}),
    _renamed("Group", {"domain_name": "domain", "resource_policy": "policy"}),
    _renamed("GroupMember", {"user": "email"}),
    _renamed("User", _USER),
    _renamed("Self", {name: _USER[name] for name in ("uuid", "domain_name", "main_group", "groups")}),
    _renamed(
        "KeyPair",
        {"user_id": "user", "domain_name": "domain", "resource_policy": "policy", "last_used": "last_used_at"},
    ),
]


@query.field("whoami")
async def self_(_: Any, info: Info) -> Row:
    return await whoami.get(info.context.parts.engine, info.context.who)


@query.field("domain")
async def domain(_: Any, info: Info, name: str) -> Row | None:
    return await or_none(domains.get(info.context.parts.engine, info.context.who, name))


@query.field("domains")
async def domain_index(_: Any, info: Info, limit: int, offset: int) -> list[Row]:
    limit, offset = page(limit, offset)
    items, _total = await domains.index(info.context.parts.engine, info.context.who, limit=limit, offset=offset)
    return [*items]


@mutation.field("create_domain")
async def create_domain(_: Any, info: Info, name: str, props: Row) -> Row:
    if "is_active" in props:
        raise InvalidRequest("a new domain is active; modify_domain changes that", data={"field": "is_active"})
    wish = checked(CreateDomain, {**props, "name": name})
    return await domains.create(info.context.parts.engine, info.context.who, **wish.model_dump())


@mutation.field("modify_domain")
async def modify_domain(_: Any, info: Info, name: str, props: Row) -> Row:
    wish = checked(ChangeDomain, props)
    return await domains.change(info.context.parts.engine, info.context.who, name, wish.sent())


@mutation.field("delete_domain")
async def delete_domain(_: Any, info: Info, name: str, dry_run: bool) -> Row:
    step = domains.owned if dry_run else domains.delete
    return {"owns": await step(info.context.parts.engine, info.context.who, name)}


@mutation.field("purge_domain")
async def purge_domain(_: Any, info: Info, name: str) -> Row:
    return {"owns": await domains.purge(info.context.parts.engine, info.context.who, name)}


@query.field("group")
async def group(_: Any, info: Info, id: str) -> Row | None:
    return await or_none(projects.get(info.context.parts.engine, info.context.who, id))


@query.field("groups")
async def group_index(_: Any, info: Info, limit: int, offset: int, domain_name: str | None = None) -> list[Row]:
    limit, offset = page(limit, offset)
    items, _total = await projects.index(
        info.context.parts.engine, info.context.who, domain=domain_name, limit=limit, offset=offset
    )
    return [*items]


@query.field("groups_by_name")
async def groups_by_name(_: Any, info: Info, name: str, domain_name: str | None = None) -> list[Row]:
    ref = f"{domain_name or info.context.who.domain}:{name}"
    found = await or_none(projects.get(info.context.parts.engine, info.context.who, ref))
    return [] if found is None else [found]


@query.field("group_members")
async def group_members(_: Any, info: Info, group: str, limit: int, offset: int) -> list[Row]:
    limit, offset = page(limit, offset)
    items, _total = await members.index(info.context.parts.engine, info.context.who, group, limit=limit, offset=offset)
    return [*items]


@mutation.field("create_group")
async def create_group(_: Any, info: Info, name: str, domain_name: str, props: Row) -> Row:
    if "is_active" in props:
        raise InvalidRequest("a new group is active; modify_group changes that", data={"field": "is_active"})
    wish = checked(CreateProject, {**props, "name": name, "domain": domain_name})
    return await projects.create(info.context.parts.engine, info.context.who, **wish.model_dump())


@mutation.field("modify_group")
async def modify_group(_: Any, info: Info, group: str, props: Row) -> Row:
    wish = checked(ChangeProject, props)
    return await projects.change(info.context.parts.engine, info.context.who, group, wish.sent())


@mutation.field("delete_group")
async def delete_group(_: Any, info: Info, group: str, dry_run: bool, force: bool) -> Row:
    parts, who = info.context.parts, info.context.who
    if dry_run:
        return {"owns": await projects.owned(parts.engine, who, group)}
    return {"owns": await removal.delete_project(parts, who, group, forced=force)}


@mutation.field("purge_group")
async def purge_group(_: Any, info: Info, group: str) -> Row:
    return {"owns": await projects.purge(info.context.parts.engine, info.context.who, group)}


@mutation.field("add_group_member")
async def add_group_member(_: Any, info: Info, group: str, user: str) -> Row:
    return await members.add(info.context.parts.engine, info.context.who, group, user)


@mutation.field("remove_group_member")
async def remove_group_member(_: Any, info: Info, group: str, user: str) -> Row:
    await members.remove(info.context.parts.engine, info.context.who, group, user)
    return _DONE


@query.field("user")
async def user(_: Any, info: Info, email: str) -> Row | None:
    return await or_none(users.get(info.context.parts.engine, info.context.who, email))


@query.field("user_list")
async def user_list(
    _: Any,
    info: Info,
    limit: int,
    offset: int,
    domain_name: str | None = None,
    group: str | None = None,
    status: str | None = None,
    role: str | None = None,
    email: str | None = None,
) -> Row:
    limit, offset = page(limit, offset)
    items, total = await users.index(
        info.context.parts.engine,
        info.context.who,
        domain=domain_name,
        project=group,
        status=status,
        role=role,
        email=email,
        limit=limit,
        offset=offset,
    )
    return {"items": items, "total_count": total}


@mutation.field("create_user")
async def create_user(_: Any, info: Info, email: str, props: Row) -> Row:
    wish = checked(CreateUser, {**props, "email": email})
    made = await users.create(info.context.parts.engine, info.context.parts.seal, info.context.who, wish.checked())
    return {"user": made, "keypair": made["keypair"]}


@mutation.field("modify_user")
async def modify_user(_: Any, info: Info, email: str, props: Row) -> Row:
    wish = checked(ChangeUser, props)
    return await users.change(info.context.parts.engine, info.context.who, email, wish.sent())


@mutation.field("delete_user")
async def delete_user(_: Any, info: Info, email: str, dry_run: bool, force: bool) -> Row:
    parts, who = info.context.parts, info.context.who
    if dry_run:
        return {"owns": await departures.owned(parts.engine, who, email)}
    return {"owns": await removal.delete_user(parts, who, email, forced=force)}


@mutation.field("purge_user")
async def purge_user(_: Any, info: Info, email: str) -> Row:
    return {"owns": await departures.purge(info.context.parts.engine, info.context.who, email)}


@mutation.field("set_user_password")
async def set_user_password(_: Any, info: Info, email: str, need_change: bool, password: str | None = None) -> Row:
    parts, who = info.context.parts, info.context.who
    await user_access.set_password(parts.engine, who, email, password, need_change=need_change)
    return _DONE


@mutation.field("unlock_user")
async def unlock_user(_: Any, info: Info, email: str) -> Row:
    await user_access.unlock(info.context.parts.engine, info.context.who, email)
    return _DONE


@mutation.field("remove_user_totp")
async def remove_user_totp(_: Any, info: Info, email: str) -> Row:
    await user_access.remove_totp(info.context.parts.engine, info.context.who, email)
    return _DONE


@query.field("keypair")
async def keypair(_: Any, info: Info, access_key: str) -> Row | None:
    return await or_none(keypairs.get(info.context.parts.engine, info.context.who, access_key))


@query.field("keypair_list")
async def keypair_list(_: Any, info: Info, limit: int, offset: int, email: str | None = None) -> Row:
    limit, offset = page(limit, offset)
    items, total = await keypairs.index(
        info.context.parts.engine, info.context.who, user=email, limit=limit, offset=offset
    )
    return {"items": items, "total_count": total}


@mutation.field("create_keypair")
async def create_keypair(_: Any, info: Info, user: str | None = None) -> Row:
    parts = info.context.parts
    return await keypairs.create(parts.engine, parts.seal, info.context.who, user)


@mutation.field("modify_keypair")
async def modify_keypair(_: Any, info: Info, access_key: str, props: Row) -> Row:
    wish = checked(ChangeKeypair, props)
    return await keypairs.change(info.context.parts.engine, info.context.who, access_key, wish.sent())


@mutation.field("delete_keypair")
async def delete_keypair(_: Any, info: Info, access_key: str) -> Row:
    await keypairs.delete(info.context.parts.engine, info.context.who, access_key)
    return _DONE
