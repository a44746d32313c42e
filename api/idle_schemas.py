"""What may be written about idleness: by a session for itself, and by a policy for all who carry it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moorage.domain.idle import CPU_PERCENT, DEVICE_PERCENT, GRACE_S, IdleWish

_LONGEST_S, _LONGEST_GRACE_S, _MOST_BPS = 365 * 86400.0, 7 * 86400.0, 1e12
Percent = Annotated[float, Field(gt=0, le=100)]
Bps = Annotated[float, Field(gt=0, le=_MOST_BPS, description="bytes a second, in and out together")]
Grace = Annotated[float, Field(ge=0, le=_LONGEST_GRACE_S, description="from the warning to the stop")]


class AskIdle(BaseModel):
    """What is left out is as the policies say; nothing may be laxer than they are."""

    model_config = ConfigDict(extra="forbid")
    after_s: Annotated[float, Field(gt=0, le=_LONGEST_S)] | None = None
    cpu_percent: Percent | None = Field(default=None, description="of its own cores")
    device_percent: Percent | None = Field(default=None, description="of its own devices, the busiest of them")
    net_bps: Bps | None = None
    grace_s: Grace | None = None
    dry_run: bool = False
    exempt: bool = Field(default=False, description="never stopped for it; administrators, where a policy says else")

    @model_validator(mode="after")
    def _exempt_stands_alone(self) -> AskIdle:
        if self.exempt and len(self.model_fields_set) > 1:
            raise ValueError("exempt leaves no room for anything else")
        return self

    def wish(self) -> IdleWish:
        return IdleWish(**self.model_dump())


class IdleRule(BaseModel):
    """What `idle_timeout_s` means by idle: below all of these. Null is no threshold."""

    model_config = ConfigDict(extra="forbid")
    cpu_percent: Percent | None = CPU_PERCENT
    device_percent: Percent | None = DEVICE_PERCENT
    net_bps: Bps | None = None
    grace_s: Grace = GRACE_S
    dry_run: bool = Field(default=False, description="only reports")

    @model_validator(mode="after")
    def _something_is_measured(self) -> IdleRule:
        if self.cpu_percent is None and self.device_percent is None and self.net_bps is None:
            raise ValueError("one of cpu_percent, device_percent and net_bps is needed")
        return self
