"""What was used, in words; a dash is unknown."""

from __future__ import annotations

from collections.abc import Callable
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
        "used cpu": _levels(cores, cpu["average"], cpu["peak"], cpu["asked"]),
        "used mem": _levels(amount, mem["average"], mem["peak_used"], mem["asked"]),
        "used io": f"{amount(io['read_bytes'])} read, {amount(io['write_bytes'])} written",
        "used net": f"{amount(net['rx_bytes'])} received, {amount(net['tx_bytes'])} sent",
    }
    if usage["devices"]:
        values["used devices"] = ", ".join(
            f"{one['device_id']} {known(one['utilisation'], '{:.0f} %')}" for one in usage["devices"]
        )
    if usage["waste"]:
        values["waste"] = "; ".join(usage["waste"])
    return values


def _levels(words: Callable[[float | None], str], average: float | None, peak: float | None, asked: int) -> str:
    return f"{words(average)} on average, {words(peak)} at most, of {words(asked)}"


def cores(millicores: float | None) -> str:
    return known(None if millicores is None else millicores / 1000, "{:.2f}")


def amount(bytes: float | None) -> str:
    return UNKNOWN if bytes is None else format_slot(MEM, int(bytes))


def known(value: Any, form: str) -> str:
    return UNKNOWN if value is None else form.format(value)
