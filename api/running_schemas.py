"""What clients may ask of a session that runs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import Text


class ResizeSession(BaseModel):
    """What each kernel is to have of these resources; of the others as much as now."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"resources": {"cpu": "2", "mem": "1g"}}]}
    )
    resources: dict[Text, Text | int | float] = Field(min_length=1, max_length=64, description="0 gives it up")
    move: bool = Field(default=False, description="it may start anew elsewhere, where its node has no room")


class CommitSession(BaseModel):
    model_config = ConfigDict(extra="forbid")
    image: Text = Field(min_length=1, max_length=400, description="NAME or NAME:TAG")
