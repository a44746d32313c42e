"""What superadmins may write about resource groups, limits and nodes; each refusal says what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.idle_schemas import IdleRule
from api.schemas import LONGEST_S, Seconds, Text
from moorage import plugins
from moorage.db.limits import Limit
from moorage.domain.errors import InvalidRequest
from moorage.domain.resources import parse_slots
from moorage.domain.session import SessionType
from moorage.scheduler.snapshot import Head, Policy, PreemptionMode

_DEFAULT = Policy()
LARGEST_COUNT = 2**31 - 1


class GroupOptions(BaseModel):
    """How a group decides; docs/scheduling.md describes each option. Deadlines in seconds, 0 means none."""

    model_config = ConfigDict(extra="forbid")
    head: Head = _DEFAULT.head
    ageing_per_hour: float = Field(default=_DEFAULT.ageing_per_hour, ge=0, le=1000)
    skip_limit: int = Field(default=_DEFAULT.skip_limit, ge=1, le=1_000_000)
    session_types: list[SessionType] = Field(default_factory=list)
    preemption: PreemptionMode = _DEFAULT.preemption
    preemption_min_run_s: Seconds = _DEFAULT.preemption_min_run_s
    preemption_hold_s: Seconds = _DEFAULT.preemption_hold_s
    half_life_s: float = Field(default=_DEFAULT.half_life_s, gt=0, le=LONGEST_S)
    default_pending_timeout_s: Seconds = 0
    max_pending_timeout_s: Seconds = 0


class ChangeGroup(BaseModel):
    """What is left out stays as it is; an option that is null goes back to its default."""

    model_config = ConfigDict(extra="forbid")
    description: Text | None = Field(default=None, max_length=1000)
    policy: Text | None = None
    selector: Text | None = None
    options: dict[Text, Any] | None = Field(default=None, description="see GroupOptions")
    allowed_domains: list[Text] | None = Field(default=None, max_length=1000)
    allowed_projects: list[Text] | None = Field(default=None, max_length=1000, description="as domain/project")
    allowed_keypairs: list[Text] | None = Field(default=None, max_length=1000)

    def revised(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The group's columns after the change, checked as a whole."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        options = {**row["options"], **given.pop("options", {})}
        revised = {name: row[name] for name in _COLUMNS} | given
        _check_name("policy", revised["policy"], plugins.order_names())
        _check_name("selector", revised["selector"], plugins.selector_names())
        return revised | {"options": checked_options(options)}


class CreateGroup(ChangeGroup):
    name: Text


class Ceilings(BaseModel):
    """What one session may have. Null is no ceiling."""

    model_config = ConfigDict(extra="forbid")
    max_containers: int | None = Field(default=None, ge=1, le=LARGEST_COUNT, description="kernels of one session")
    max_priority: int | None = Field(default=None, ge=0, le=100)
    max_job_priority: int | None = Field(default=None, ge=-1_000_000, le=1_000_000)
    max_lifetime_s: float | None = Field(default=None, gt=0, le=LONGEST_S)
    idle_timeout_s: float | None = Field(default=None, gt=0, le=LONGEST_S, description="idle for longer is stopped")
    idle: IdleRule | None = Field(default=None, description="what that means; null is CPU and devices below 5 %")
    allowed_folder_hosts: list[Text] | None = Field(default=None, max_length=1000, description="kept and shown")


class PutLimit(Ceilings):
    """All limits of an owner; what is left out is as its policy says. Amounts as in a session's `resources`."""

    max_sessions: int | None = Field(default=None, ge=0, le=LARGEST_COUNT)
    max_slots: dict[Text, Text | int | float] = Field(default_factory=dict, max_length=100)
    max_pending: int | None = Field(default=None, ge=0, le=LARGEST_COUNT)
    max_pending_slots: dict[Text, Text | int | float] = Field(default_factory=dict, max_length=100)
    weight: float = Field(default=1.0, gt=0, le=1e6)

    def checked(self) -> Limit:
        return Limit(
            max_sessions=self.max_sessions,
            max_slots=parse_slots(self.max_slots),
            max_pending=self.max_pending,
            max_pending_slots=parse_slots(self.max_pending_slots),
            weight=self.weight,
            **self.model_dump(include=set(Ceilings.model_fields)),
        )


class ChangeAgent(BaseModel):
    model_config = ConfigDict(extra="forbid")
    schedulable: bool


_COLUMNS = ("description", "policy", "selector", "allowed_domains", "allowed_projects", "allowed_keypairs")
# What a new group is before its first change.
NEW_GROUP: dict[str, Any] = {
    "description": "",
    "policy": _DEFAULT.order,
    "selector": _DEFAULT.selector,
    "allowed_domains": [],
    "allowed_projects": [],
    "allowed_keypairs": [],
    "options": {},
}


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they are stored: those that were set, and only known ones with allowed values."""
    unknown = sorted(set(options) - set(GroupOptions.model_fields))
    if unknown:
        raise InvalidRequest(
            f"unknown option {', '.join(unknown)[:200]}; allowed are {', '.join(GroupOptions.model_fields)}",
            code="unknown-option",
            data={"unknown": unknown, "allowed": list(GroupOptions.model_fields)},
        )
    try:
        checked = GroupOptions.model_validate({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        fields = {".".join(str(part) for part in one["loc"]): str(one["msg"]) for one in error.errors()}
        words = "; ".join(f"option {name}: {message}" for name, message in fields.items())
        raise InvalidRequest(words[:1000], code="invalid-option", data=fields) from None
    default, longest = checked.default_pending_timeout_s, checked.max_pending_timeout_s
    if longest and default > longest:
        raise InvalidRequest(
            f"option default_pending_timeout_s: {default:g} s is more than max_pending_timeout_s, {longest:g} s",
            code="invalid-option",
        )
    stored: dict[str, Any] = checked.model_dump(mode="json", exclude_unset=True)
    return stored


def all_options(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The stored options with the defaults of the others."""
    defaults: dict[str, Any] = GroupOptions().model_dump(mode="json")
    return defaults | dict(stored)


def _check_name(kind: str, name: str, allowed: list[str]) -> None:
    if name not in allowed:
        raise InvalidRequest(
            f"unknown {kind} {name[:64]!r}; allowed are {', '.join(allowed)}",
            code=f"unknown-{kind}",
            data={"field": kind, "allowed": allowed},
        )
