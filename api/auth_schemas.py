"""What clients may send about who they are."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import Text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LogIn(_Strict):
    email: Text = Field(max_length=254)
    password: Text = Field(max_length=1024)
    otp: Text = Field(default="", max_length=16, description="where one-time codes are on")


class Refresh(_Strict):
    refresh_token: Text = Field(max_length=4096)


class Exchange(_Strict):
    code: Text = Field(max_length=4096)


class LogOut(_Strict):
    all: bool = Field(default=False, description="every log-in, not only this one")


class ChangePassword(_Strict):
    old: Text = Field(max_length=1024)
    new: Text = Field(max_length=1024)


class ChangeExpired(ChangePassword):
    email: Text = Field(max_length=254)
    otp: Text = Field(default="", max_length=16)


class Code(_Strict):
    otp: Text = Field(min_length=6, max_length=16)
