"""Roles, policies, limits, quotas and grants over GraphQL: the same functions that REST calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ariadne import MutationType, QueryType

from api.graphql.asked import Info, checked, page
from api.group_schemas import PutLimit
from api.quota_schemas import ChangePolicy, CreateGrant, CreatePolicy
from api.tenant_schemas import Assign, ChangeRole, CreateRole
from moorage.db import assignments, grants, limits, policies, quotas, roles
from moorage.domain.errors import InvalidRequest
from moorage.domain.tenancy import PolicyKind
from moorage.scheduler.snapshot import Scope

query, mutation = QueryType(), MutationType()
Row = Mapping[str, Any]
_DONE = {"ok": True}


@query.field("roles")
async def role_index(_: Any, info: Info) -> list[Row]:
    return [*await roles.index(info.context.parts.engine)]


@query.field("role_assignments")
async def assignment_index(
    _: Any, info: Info, limit: int, offset: int, role: str | None = None, user: str | None = None
) -> list[Row]:
    limit, offset = page(limit, offset)
    items, _total = await assignments.index(
        info.context.parts.engine, info.context.who, role=role, user=user, limit=limit, offset=offset
    )
    return [*items]


@mutation.field("create_role")
async def create_role(_: Any, info: Info, **wish: Any) -> Row:
    values = checked(CreateRole, wish).model_dump()
    return await roles.create(info.context.parts.engine, info.context.who, **values)


@mutation.field("modify_role")
async def modify_role(_: Any, info: Info, name: str, **wish: Any) -> Row:
    changes = checked(ChangeRole, wish).sent()
    return await roles.change(info.context.parts.engine, info.context.who, name, changes)


@mutation.field("delete_role")
async def delete_role(_: Any, info: Info, name: str) -> Row:
    await roles.remove(info.context.parts.engine, info.context.who, name)
    return _DONE


@mutation.field("assign_role")
async def assign_role(_: Any, info: Info, role: str, **wish: Any) -> Row:
    values = checked(Assign, wish).model_dump()
    return await assignments.assign(info.context.parts.engine, info.context.who, role, **values)


@mutation.field("revoke_role")
async def revoke_role(_: Any, info: Info, id: str) -> Row:
    await assignments.revoke(info.context.parts.engine, info.context.who, id)
    return _DONE


@query.field("policies")
async def policy_index(_: Any, info: Info, kind: str | None = None) -> list[Row]:
    return [*await policies.index(info.context.parts.engine, None if kind is None else _kind(kind))]


@mutation.field("create_policy")
async def create_policy(_: Any, info: Info, kind: str, name: str, props: Row) -> Row:
    wish = checked(CreatePolicy, {**props, "kind": kind, "name": name})
    return await policies.create(info.context.parts.engine, info.context.who, wish.kind, wish.name, wish.given())


@mutation.field("modify_policy")
async def modify_policy(_: Any, info: Info, kind: str, name: str, props: Row) -> Row:
    wish = checked(ChangePolicy, props)
    return await policies.change(info.context.parts.engine, info.context.who, _kind(kind), name, wish.given())


@mutation.field("delete_policy")
async def delete_policy(_: Any, info: Info, kind: str, name: str) -> Row:
    await policies.remove(info.context.parts.engine, info.context.who, _kind(kind), name)
    return _DONE


@query.field("limits")
async def limit_index(_: Any, info: Info) -> list[Row]:
    return [*await limits.index(info.context.parts.engine, info.context.who)]


@mutation.field("put_limit")
async def put_limit(_: Any, info: Info, scope: str, name: str, props: Row) -> Row:
    wish = checked(PutLimit, props).checked()
    return await limits.put(info.context.parts.engine, info.context.who, _scope(scope), name, wish)


@mutation.field("delete_limit")
async def delete_limit(_: Any, info: Info, scope: str, name: str) -> Row:
    await limits.remove(info.context.parts.engine, info.context.who, _scope(scope), name)
    return _DONE


@query.field("quotas")
async def quota_index(_: Any, info: Info, scope: str | None = None, name: str | None = None) -> list[Row]:
    parts, who = info.context.parts, info.context.who
    if scope is None and name is None:
        return [*await quotas.own(parts.engine, who)]
    if scope is None or name is None:
        raise InvalidRequest("scope and name go together", data={"field": "name" if name is None else "scope"})
    return [await quotas.of(parts.engine, who, _scope(scope), name)]


@query.field("grants")
async def grant_index(_: Any, info: Info) -> list[Row]:
    return [*await grants.index(info.context.parts.engine, info.context.who)]


@mutation.field("give_grant")
async def give_grant(_: Any, info: Info, **wish: Any) -> Row:
    return await grants.give(info.context.parts.engine, info.context.who, checked(CreateGrant, wish).checked())


@mutation.field("revoke_grant")
async def revoke_grant(_: Any, info: Info, id: str) -> Row:
    await grants.revoke(info.context.parts.engine, info.context.who, id)
    return _DONE


def _scope(word: str) -> Scope:
    if word not in {*Scope}:
        raise InvalidRequest(f"unknown scope {word[:40]!r}; allowed are {', '.join(Scope)}", data={"field": "scope"})
    return Scope(word)


def _kind(word: str) -> PolicyKind:
    if word not in {*PolicyKind}:
        raise InvalidRequest(f"unknown kind {word[:40]!r}; allowed are {', '.join(PolicyKind)}", data={"field": "kind"})
    return PolicyKind(word)
