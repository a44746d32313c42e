"""Other devices for a kernel that has some already, on the node where it is: as many of its own as serve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from moorage.scheduler.devices import DeviceSet
from moorage.scheduler.snapshot import DeviceState


def regroup(devices: Iterable[DeviceState], own: Mapping[str, int], amount: int, ledger: int) -> dict[str, int] | None:
    """Device id → amount of which the kernel's part is `amount`; None where the node can't give it now.

    `own` are among what is used of the `devices`, and are kept if they are healthy; those that come to them are near.
    `ledger` is what the node's capacity leaves beside them.
    """
    all_of_slot = list(devices)
    mine = [one for one in all_of_slot if one.device_id in own]
    kept = _choose(mine, own, {}, amount, ledger)
    if kept is not None:
        return kept
    whole = {one.device_id: one.total for one in mine if one.healthy and own[one.device_id] == one.total}
    grown = _choose(all_of_slot, own, whole, amount, ledger) if sum(whole.values()) <= amount else None
    return grown or _choose(all_of_slot, own, {}, amount, ledger)


def possible(devices: Iterable[DeviceState], own: Mapping[str, int], ledger: int) -> int:
    """The largest amount that `regroup` could give."""
    return _free(devices, own, ledger).level()


def _choose(
    devices: list[DeviceState], own: Mapping[str, int], kept: Mapping[str, int], amount: int, ledger: int
) -> dict[str, int] | None:
    """`kept` stay, the rest is chosen from what is free once the kernel has given its own back."""
    free = _free(devices, own, ledger)
    chosen = {free.ids.index(device_id): part for device_id, part in kept.items()}
    free.take(chosen)
    rest = amount - sum(kept.values())
    if rest > free.level():
        return None
    near = frozenset(one.numa for one in devices if one.device_id in own and one.numa is not None)
    added = free.choose(rest, near) if rest else {}
    return {free.ids[index]: part for index, part in {**chosen, **added}.items()}


def _free(devices: Iterable[DeviceState], own: Mapping[str, int], ledger: int) -> DeviceSet:
    free = DeviceSet(devices, ledger)
    free.give_back(own)
    return free
