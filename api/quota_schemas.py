"""What may be written about policies and grants."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.group_schemas import LARGEST_COUNT, Ceilings
from api.schemas import Text, parse_moment
from moorage.db.grants import SESSIONS, NewGrant
from moorage.domain.errors import InvalidRequest
from moorage.domain.resources import parse_slots
from moorage.domain.tenancy import PolicyKind
from moorage.scheduler.snapshot import Scope

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class ChangePolicy(Ceilings):
    """What is left out stays as it is; null and missing slots are unlimited. Amounts as in a session's `resources`."""

    description: Text = Field(default="", max_length=1000)
    max_sessions: int | None = Field(default=None, ge=0, le=LARGEST_COUNT)
    max_slots: dict[Text, Text | int | float] = Field(default_factory=dict, max_length=100)
    max_pending: int | None = Field(default=None, ge=0, le=LARGEST_COUNT)
    max_pending_slots: dict[Text, Text | int | float] = Field(default_factory=dict, max_length=100)

    def given(self) -> dict[str, Any]:
        """The columns that were written, in base units."""
        values = self.model_dump(exclude_unset=True, exclude={"kind", "name"})
        slots = {name: parse_slots(values[name]) for name in ("max_slots", "max_pending_slots") if name in values}
        # A rule is written as a whole: what it leaves out is by default, whatever it was.
        return values | slots | ({"idle": self.idle.model_dump()} if self.idle is not None else {})


class CreatePolicy(ChangePolicy):
    kind: PolicyKind
    name: Name


class CreateGrant(BaseModel):
    """So much more of a slot for a time. `slot` is a resource or `sessions`."""

    model_config = ConfigDict(extra="forbid")
    scope: Scope
    name: Text = Field(max_length=254)
    slot: Text = Field(min_length=1, max_length=64)
    amount: Text | int | float
    ends: Text = Field(description="an ISO time, or from the start on as 90s, 10m, 2h or 3d")
    starts: Text | None = Field(default=None, description="an ISO time, or from now on; now if left out")
    reason: Text = Field(default="", max_length=1000)

    def checked(self) -> NewGrant:
        starts = parse_moment("starts", self.starts) if self.starts is not None else None
        ends = parse_moment("ends", self.ends, since=starts or datetime.now(UTC))
        return NewGrant(self.scope, self.name, self.slot, self._units(), ends, starts, self.reason)

    def _units(self) -> int:
        if self.slot == SESSIONS and not str(self.amount).isdecimal():
            raise InvalidRequest(f"amount {str(self.amount)[:40]!r} is no number of sessions", code="malformed-size")
        amount = int(self.amount) if self.slot == SESSIONS else parse_slots({self.slot: self.amount})[self.slot]
        if not 0 < amount <= (LARGEST_COUNT if self.slot == SESSIONS else 2**53):
            raise InvalidRequest(
                f"amount {str(self.amount)[:40]!r} is nothing or too much",
                code="malformed-size",
                data={"field": "amount"},
            )
        return amount
