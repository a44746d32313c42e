"""What clients may send about secrets. No value is ever said back."""

from __future__ import annotations

import base64
import binascii
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import Text
from moorage.domain.errors import InvalidRequest, TooLarge
from moorage.domain.secrets import LARGEST_BYTES


class PutSecret(BaseModel):
    model_config = ConfigDict(extra="forbid")
    value: Text = Field(repr=False, min_length=1, description="at most 64 KiB")
    encoding: Literal["text", "base64"] = "text"
    project: Text | None = Field(default=None, max_length=256, description="domain/name, id, or name in one's domain")

    def content(self) -> bytes:
        """The value's bytes; refuses what is no base64, and what is empty or too large."""
        try:
            content = base64.b64decode(self.value, validate=True) if self.encoding == "base64" else self.value.encode()
        except (binascii.Error, ValueError):
            raise InvalidRequest("value is not base64", data={"field": "value"}) from None
        if not content:
            raise InvalidRequest("value is empty", data={"field": "value"})
        if len(content) > LARGEST_BYTES:
            raise TooLarge(
                f"the secret has {len(content)} bytes; at most {LARGEST_BYTES} are allowed",
                code="secret-too-large",
                data={"field": "value", "most": LARGEST_BYTES},
            )
        return content
