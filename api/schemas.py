"""What clients may send."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from api.health_schemas import HealthWish, check_restarts
from api.idle_schemas import AskIdle
from api.words import Text as Text
from moorage.db.submit import NewSession
from moorage.domain.errors import InvalidRequest
from moorage.domain.ids import checked_session_name
from moorage.domain.network import NetworkPolicy
from moorage.domain.resources import MINIMUM, format_slot, parse_slots
from moorage.domain.secrets import SecretUse, checked_uses, secret_use
from moorage.domain.session import IDLE, DependencyPolicy, NodeLossPolicy, RestartPolicy, SessionType
from moorage.scheduler.snapshot import ClusterMode

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_ENV_BYTES = 64 * 1024
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_S = 365 * 86400.0


def _an_image(text: str) -> str:
    if not _IMAGE.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is not an image; allowed are letters, digits and . _ / : @ -, first a letter or digit"
        )
    return text


Seconds = Annotated[float, Field(ge=0, le=LONGEST_S)]


class UseSecret(BaseModel):
    """A secret by name, as a variable or as a file; without either as its name suggests."""

    model_config = ConfigDict(extra="forbid")
    name: Text
    env: Text | None = None
    file: Text | None = None

    def checked(self) -> SecretUse:
        return secret_use(self.name, env=self.env, file=self.file)


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
    name: Text | None = None
    type: SessionType = SessionType.INTERACTIVE
    command: list[Text] = Field(default_factory=list, max_length=1024)
    env: dict[Text, Text] = Field(default_factory=dict, repr=False)
    secrets: list[Text | UseSecret] = Field(default_factory=list, max_length=32, description="names, or where to")
    resources: dict[Text, Text | int | float] = Field(default_factory=dict, description="cpu in cores, mem as 256m")
    priority: int = Field(default=10, ge=0, le=100)
    resource_group: Text = "default"
    project: Text | None = Field(default=None, max_length=130, description="one of one's own; the main one if left out")
    on_node_loss: NodeLossPolicy = NodeLossPolicy.FAIL
    pending_timeout_s: Seconds | None = Field(default=None, description="0 is none; left out, the group decides")
    lifetime_s: Seconds = 0
    batch_timeout_s: Seconds = 0
    grace_s: float = Field(default=10, ge=0, le=3600)
    cluster_size: int = Field(default=1, ge=1, le=4096, description="kernels; each gets `resources`")
    cluster_mode: ClusterMode = ClusterMode.SINGLE_NODE
    not_before: Text | None = Field(default=None, description="an ISO time, or from now on as 90s, 10m, 2h or 1d")
    dependencies: list[Text] = Field(default_factory=list, max_length=64, description="ids or names of own sessions")
    on_dependency_failure: DependencyPolicy = DependencyPolicy.CANCEL
    architecture: Literal["x86_64", "aarch64"] | None = None
    agents: list[Text] = Field(default_factory=list, max_length=64, description="the only nodes; superadmins")
    preemptible: bool = True
    job_priority: int = Field(default=0, ge=-1_000_000, le=1_000_000, description="who may preempt whom")
    network: NetworkPolicy = Field(default=NetworkPolicy.OPEN, description="what it may reach")
    restart_policy: RestartPolicy = RestartPolicy.NEVER
    max_restarts: int = Field(default=5, ge=0, le=1000, description="in a row")
    health: HealthWish | None = None
    idle: AskIdle | None = Field(default=None, description="when it is stopped because nobody uses it")

    @model_validator(mode="after")
    def _batch_has_a_command(self) -> CreateSession:
        if self.type is SessionType.BATCH and not self.command:
            raise ValueError("a batch session needs a command")
        if self.type is not SessionType.BATCH and self.batch_timeout_s:
            raise ValueError("batch_timeout_s is for batch sessions; lifetime_s is for all")
        check_restarts(self.type, self.restart_policy, counted="max_restarts" in self.model_fields_set)
        return self

    def checked(self, *, idempotency_key: str | None, idempotency_hash: str | None) -> NewSession:
        """With defaults filled in; refuses what is malformed, with what is allowed."""
        for name in self.env:
            if not _ENV_NAME.fullmatch(name):
                raise InvalidRequest(f"env: {name[:80]!r} is not a variable's name", data={"field": "env"})
        size = sum(len(name) + len(value) for name, value in self.env.items())
        if size > _ENV_BYTES:
            raise InvalidRequest(f"env: {size} bytes; at most {_ENV_BYTES} are allowed", data={"field": "env"})
        uses = [secret_use(one) if isinstance(one, str) else one.checked() for one in self.secrets]
        if 0 < self.lifetime_s < self.batch_timeout_s:
            raise InvalidRequest(
                f"batch_timeout_s {self.batch_timeout_s:g} is longer than lifetime_s {self.lifetime_s:g}",
                code="contradicting-times",
                data={"field": "batch_timeout_s"},
            )
        if self.network is NetworkPolicy.NONE and self.cluster_size > 1:
            raise InvalidRequest(
                f"network none, but {self.cluster_size} kernels that must reach each other",
                code="gang-without-network",
                hint="network internal lets them reach each other and nothing else",
                data={"field": "network"},
            )
        return NewSession(
            name=checked_session_name(self.name) if self.name is not None else _name_for(self.image),
            image=self.image,
            type=self.type,
            command=self.command or list(IDLE),
            env=self.env,
            secrets=checked_uses(uses, self.env),
            slots=_slots(self.resources),
            priority=self.priority,
            resource_group=self.resource_group,
            on_node_loss=self.on_node_loss,
            pending_timeout_s=self.pending_timeout_s,
            lifetime_s=self.lifetime_s,
            batch_timeout_s=self.batch_timeout_s,
            grace_s=self.grace_s,
            cluster_size=self.cluster_size,
            cluster_mode=self.cluster_mode,
            not_before=parse_not_before(self.not_before) if self.not_before is not None else None,
            dependencies=self.dependencies,
            on_dependency_failure=self.on_dependency_failure,
            architecture=self.architecture or "",
            agents=self.agents,
            preemptible=self.preemptible,
            job_priority=self.job_priority,
            restart_policy=self.restart_policy,
            max_restarts=self.max_restarts,
            health=self.health.checked() if self.health else None,
            idle_wish=self.idle.wish() if self.idle is not None else None,
            idempotency_key=idempotency_key,
            idempotency_hash=idempotency_hash,
            network=self.network,
        )


class Exec(BaseModel):
    model_config = ConfigDict(extra="forbid")
    command: list[Text] = Field(min_length=1, max_length=1024)
    timeout_s: float = Field(default=60, gt=0, le=3600)


def _slots(resources: dict[str, str | int | float]) -> dict[str, int]:
    slots = parse_slots({"cpu": "1", "mem": "256m", **resources})
    for name, least in MINIMUM.items():
        if slots[name] < least:
            raise InvalidRequest(
                f"{name} {resources.get(name)!r} is less than the least allowed, {format_slot(name, least)}",
                code="malformed-size",
            )
    for name in slots:
        kind, _, unit = name.rpartition(".")
        if unit == "shares" and slots[name] and slots.get(f"{kind}.device"):
            raise InvalidRequest(
                f"{kind}.device and {name} exclude each other; ask for whole devices or for shares",
                code="exclusive-slots",
            )
    return slots


def parse_span(field: str, words: str) -> float:
    """Seconds, more than none and at most a year."""
    span = _SPAN.fullmatch(words.strip())
    seconds = float(span[1]) * _UNITS[span[2]] if span is not None else 0.0
    if not 0 < seconds <= LONGEST_S:
        raise InvalidRequest(
            f"{field} {words[:80]!r} is no length of time; allowed is for example 90s, 10m, 2h or 1d, up to 365d",
            code="malformed-time",
            data={"field": field},
        )
    return seconds


def parse_not_before(words: str) -> datetime:
    return parse_moment("not_before", words)


def parse_past(field: str, words: str) -> datetime:
    """An ISO time (UTC unless it says otherwise), or a span back from now."""
    return parse_moment(field, words, towards=-1)


def parse_moment(field: str, words: str, *, since: datetime | None = None, towards: int = 1) -> datetime:
    """An ISO time (UTC unless it says otherwise), or a span, from now on if nothing else is said."""
    span = _SPAN.fullmatch(words.strip())
    try:
        if span is not None:
            return (since or datetime.now(UTC)) + towards * timedelta(seconds=float(span[1]) * _UNITS[span[2]])
        moment = datetime.fromisoformat(words.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{field} {words[:80]!r} is no time; allowed is an ISO time such as 2030-01-31T08:00:00Z,"
            " or a span such as 90s, 10m, 2h or 1d",
            code="malformed-time",
            data={"field": field},
        ) from None


def _name_for(image: str) -> str:
    base = re.sub(r"[^A-Za-z0-9_.-]", "-", image.split("@")[0].rsplit("/", 1)[-1].split(":")[0])[:40].strip("-._")
    return f"{base or 'session'}-{secrets.token_hex(3)}"
