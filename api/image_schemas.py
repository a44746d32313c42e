"""What clients may send about images and registries. No password is ever said back."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from api.schemas import Text, an_image


class OrderImage(BaseModel):
    """An image for the living nodes of a group, for some agents, or for all."""

    model_config = ConfigDict(extra="forbid")
    image: Annotated[str, AfterValidator(an_image)] = Field(min_length=1, max_length=512)
    resource_group: Text | None = Field(default=None, max_length=64)
    agents: list[Text] = Field(default_factory=list, max_length=1024)

    @model_validator(mode="after")
    def _one_target(self) -> OrderImage:
        if self.resource_group is not None and self.agents:
            raise ValueError("give resource_group or agents, not both")
        return self


class AllowImages(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pattern: Text = Field(min_length=1, max_length=512, description="python:*, team/* or registry.example/team/*")
    domain: Text | None = Field(default=None, max_length=64, description="left out: everywhere")


class PutRegistry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    username: Text = Field(min_length=1, max_length=256)
    password: Text = Field(min_length=1, max_length=16384, repr=False, description="or a token; never shown again")
