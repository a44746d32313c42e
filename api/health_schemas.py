"""How clients say that a session is to be checked, and when it is to start again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.words import Text
from moorage.domain.health import HealthCheck, Probe
from moorage.domain.session import RestartPolicy, SessionType


class ProbeWish(BaseModel):
    """A command that exits with 0, or a port that accepts a connection."""

    model_config = ConfigDict(extra="forbid")
    command: list[Text] = Field(default_factory=list, max_length=256)
    port: int | None = Field(default=None, ge=1, le=65535)
    every_s: float = Field(default=10, ge=1, le=3600)
    timeout_s: float = Field(default=5, ge=0.1, le=300)
    failures: int = Field(default=3, ge=1, le=100, description="so many in a row and it has failed")

    @model_validator(mode="after")
    def _one_of_two(self) -> ProbeWish:
        if bool(self.command) == (self.port is not None):
            raise ValueError("a probe is either a command or a port" + ("; both were given" if self.command else ""))
        return self

    def checked(self) -> Probe:
        return Probe(list(self.command), self.port or 0, self.every_s, self.timeout_s, self.failures)


class HealthWish(BaseModel):
    """`start` must succeed once (without it `live`), from then on `live` must not fail."""

    model_config = ConfigDict(extra="forbid")
    start: ProbeWish | None = None
    live: ProbeWish | None = None
    start_within_s: float = Field(default=60, ge=1, le=86400)

    @model_validator(mode="after")
    def _at_least_one(self) -> HealthWish:
        if self.start is None and self.live is None:
            raise ValueError("health needs a probe: start, live or both")
        return self

    def checked(self) -> HealthCheck:
        start, live = (probe.checked() if probe else None for probe in (self.start, self.live))
        return HealthCheck(start, live, self.start_within_s)


def check_restarts(type: SessionType, policy: RestartPolicy, *, counted: bool) -> None:
    """ValueError for what contradicts itself. `counted`: the wish says how many restarts there may be."""
    if type is SessionType.BATCH and policy is RestartPolicy.ALWAYS:
        raise ValueError("a batch session is over when its command is; restart_policy on-failure or never fits it")
    if counted and policy is RestartPolicy.NEVER:
        raise ValueError("max_restarts needs a restart_policy: on-failure or always")
