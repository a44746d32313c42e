"""Which devices a running kernel is to have instead of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from moorage.db.holdings import Devices, Holding, Node, accelerators
from moorage.domain.resources import Slots
from moorage.scheduler.regroup import possible, regroup


class NoRoom(Exception):
    """No devices of the node serve."""


def at_most(kernels: Sequence[Holding], node: Node, slot: str) -> int:
    """The most of a slot that each of a node's kernels could have now."""
    free, devices = node.free.get(slot, 0), node.of(slot)
    if devices and len(kernels) == 1:
        return possible(devices, kernels[0].devices.get(slot, {}), free)
    return kernels[0].slots.get(slot, 0) + free // len(kernels)


def plan_beside(
    held: Sequence[Holding], nodes: Mapping[str, Node], wanted: Slots
) -> list[tuple[Holding, str, int, Devices]]:
    """(kernel, slot, amount, devices): the accelerators that the next attempt has and this one has not. Or NoRoom."""
    found = []
    for kernel in held:
        node = nodes[kernel.agent_id]
        for slot, amount in sorted(accelerators(wanted).items()):
            more, devices = _more(kernel, node, slot, amount)
            if more > 0:
                node.take(slot, more, devices)
                found.append((kernel, slot, more, devices))
    return found


def _more(kernel: Holding, node: Node, slot: str, amount: int) -> tuple[int, Devices]:
    now, own = kernel.slots.get(slot, 0), kernel.devices.get(slot, {})
    if amount == now or not node.of(slot):
        return amount - now, {}
    chosen = regroup(node.of(slot), own, amount, node.free.get(slot, 0))
    if chosen is None:
        raise NoRoom(slot)
    devices = {name: more for name, part in chosen.items() if (more := part - own.get(name, 0)) > 0}
    return sum(devices.values()), devices


def choose_held(held: Sequence[Holding], nodes: Mapping[str, Node], wanted: Slots) -> dict[str, dict[str, Devices]]:
    """Kernel → slot → devices, of those that it holds now or beside. NoRoom, if too few of them are healthy."""
    return {
        kernel.kernel_id: {
            slot: _of_held(kernel, nodes[kernel.agent_id], slot, amount)
            for slot, amount in accelerators(wanted).items()
        }
        for kernel in held
    }


def _of_held(kernel: Holding, node: Node, slot: str, amount: int) -> Devices:
    own = kernel.devices.get(slot, {})
    if amount == kernel.slots.get(slot, 0):
        return own
    both = dict(Counter(own) + Counter(kernel.beside.get(slot, {})))
    if not both and not node.of(slot):
        return {}
    chosen = regroup([one for one in node.of(slot) if one.device_id in both], both, amount, 0)
    if chosen is None:
        raise NoRoom(slot)
    return chosen
