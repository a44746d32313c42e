"""What clients may send."""

from __future__ import annotations

import re
import secrets
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from moorage.db.sessions import NewSession
from moorage.domain.errors import InvalidRequest
from moorage.domain.ids import checked_session_name
from moorage.domain.resources import MINIMUM, format_slot, parse_slots
from moorage.domain.session import NodeLossPolicy, SessionType

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_ENV_BYTES = 64 * 1024
_KNOWN_SLOTS = ("cpu", "mem")
_LONGEST_S = 365 * 86400.0


def _storable(text: str) -> str:
    """PostgreSQL and a container's command line take neither NUL nor half of a surrogate pair."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("a NUL character or half of a surrogate pair is no text")
    return text


def _an_image(text: str) -> str:
    if not _IMAGE.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is not an image; allowed are letters, digits and . _ / : @ -, first a letter or digit"
        )
    return text


_Text = Annotated[str, AfterValidator(_storable)]
_Seconds = Annotated[float, Field(ge=0, le=_LONGEST_S)]


class Login(BaseModel):
    model_config = ConfigDict(extra="forbid")
    email: _Text = Field(max_length=254)
    password: _Text = Field(max_length=1024)


class CreateSession(BaseModel):
    """A wish. Unknown fields are refused."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "image": "python:3.12",
                    "type": "batch",
                    "command": ["python3", "-c", "print(6*7)"],
                    "resources": {"cpu": "1", "mem": "256m"},
                }
            ]
        },
    )
    image: Annotated[str, AfterValidator(_an_image)] = Field(min_length=1, max_length=512)
    name: _Text | None = None
    type: SessionType = SessionType.INTERACTIVE
    command: list[_Text] = Field(default_factory=list, max_length=1024)
    env: dict[_Text, _Text] = Field(default_factory=dict)
    resources: dict[_Text, _Text | int | float] = Field(default_factory=dict, description="cpu in cores, mem as 256m")
    priority: int = Field(default=10, ge=0, le=100)
    resource_group: _Text = "default"
    on_node_loss: NodeLossPolicy = NodeLossPolicy.FAIL
    pending_timeout_s: _Seconds = 0
    lifetime_s: _Seconds = 0
    batch_timeout_s: _Seconds = 0
    grace_s: float = Field(default=10, ge=0, le=3600)

    @model_validator(mode="after")
    def _batch_has_a_command(self) -> CreateSession:
        if self.type is SessionType.BATCH and not self.command:
            raise ValueError("a batch session needs a command")
        if self.type is not SessionType.BATCH and self.batch_timeout_s:
            raise ValueError("batch_timeout_s is for batch sessions; lifetime_s is for all")
        return self

    def checked(self, *, idempotency_key: str | None, idempotency_hash: str | None) -> NewSession:
        """With defaults filled in; refuses what is malformed, with what is allowed."""
        for name in self.env:
            if not _ENV_NAME.fullmatch(name):
                raise InvalidRequest(f"env: {name[:80]!r} is not a variable's name", data={"field": "env"})
        size = sum(len(name) + len(value) for name, value in self.env.items())
        if size > _ENV_BYTES:
            raise InvalidRequest(f"env: {size} bytes; at most {_ENV_BYTES} are allowed", data={"field": "env"})
        idle = ["tail", "-f", "/dev/null"]
        return NewSession(
            name=checked_session_name(self.name) if self.name is not None else _name_for(self.image),
            image=self.image,
            type=self.type,
            command=self.command or idle,
            env=self.env,
            slots=_slots(self.resources),
            priority=self.priority,
            resource_group=self.resource_group,
            on_node_loss=self.on_node_loss,
            pending_timeout_s=self.pending_timeout_s,
            lifetime_s=self.lifetime_s,
            batch_timeout_s=self.batch_timeout_s,
            grace_s=self.grace_s,
            idempotency_key=idempotency_key,
            idempotency_hash=idempotency_hash,
        )


class Exec(BaseModel):
    model_config = ConfigDict(extra="forbid")
    command: list[_Text] = Field(min_length=1, max_length=1024)
    timeout_s: float = Field(default=60, gt=0, le=3600)


def _slots(resources: dict[str, str | int | float]) -> dict[str, int]:
    unknown = sorted(set(resources) - set(_KNOWN_SLOTS))
    if unknown:
        raise InvalidRequest(
            f"unknown resource {', '.join(unknown)[:200]}; allowed are {', '.join(_KNOWN_SLOTS)}", code="unknown-slot"
        )
    slots = parse_slots({"cpu": "1", "mem": "256m", **resources})
    for name, least in MINIMUM.items():
        if slots[name] < least:
            raise InvalidRequest(
                f"{name} {resources.get(name)!r} is less than the least allowed, {format_slot(name, least)}",
                code="malformed-size",
            )
    return slots


def _name_for(image: str) -> str:
    base = re.sub(r"[^A-Za-z0-9_.-]", "-", image.split("@")[0].rsplit("/", 1)[-1].split(":")[0])[:40].strip("-._")
    return f"{base or 'session'}-{secrets.token_hex(3)}"
