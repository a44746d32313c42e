"""What was used, in words; a dash is unknown."""

from __future__ import annotations

from typing import Any

from moorage.cli.client import Json
from moorage.domain.resources import MEM, format_slot

UNKNOWN = "–"


def used(usage: Json | None) -> dict[str, object]:
    """A session's whole use, for `moor show`."""
    if usage is None:
        return {}
    cpu, mem, io, net = usage["cpu"], usage["mem"], usage["io"], usage["net"]
    values: dict[str, object] = {
        "used cpu": f"{cores(cpu['average'])} on average, {cores(cpu['peak'])} at most, of {cores(cpu['asked'])}",
        "used mem": f"{amount(mem['average'])} on average, {amount(mem['peak_used'])} at most, of {amount(mem['asked'])}",
        "used io": f"{amount(io['readamount'])} read, {amount(io['writeamount'])} written",
        "used net": f"{amount(net['rxamount'])} received, {amount(net['txamount'])} sent",
    }
    if usage["devices"]:
        values["used devices"] = ", ".join(
            f"{one['device_id']} {known(one['utilisation'], '{:.0f} %')}" for one in usage["devices"]
        )
    if usage["waste"]:
        values["waste"] = "; ".join(usage["waste"])
    return values


def cores(millicores: float | None) -> str:
    return known(None if millicores is None else millicores / 1000, "{:.2f}")


def amount(bytes: float | None) -> str:
    return UNKNOWN if bytes is None else format_slot(MEM, int(bytes))


def known(value: Any, form: str) -> str:
    return UNKNOWN if value is None else form.format(value)
