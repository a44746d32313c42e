"""When the meter looks, at what, and what it forgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent_worker.metrics.meter import Meter
from agent_worker.metrics.reading import Readings
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.domain.node import ContainerSeen
from moorage.domain.session import KernelSpec
from moorage.domain.stats import DeviceReading, Stats
from tests.agent.specs import a_spec


class Watched(SimulatedRuntime):
    """Notes what is measured and listed; time is a number that the test sets."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.time = 100.0
        self.measured: list[list[str]] = []
        self.listed = 0
        self.fails = False

    async def measure(self, containers: Sequence[ContainerSeen]) -> Readings:
        if self.fails:
            raise OSError("away")
        self.measured.append([container.kernel_id for container in containers])
        return await super().measure(containers)

    async def containers(self) -> list[ContainerSeen]:
        self.listed += 1
        return await super().containers()

    def clock(self) -> float:
        return self.time


@pytest.fixture
def runtime(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "containers.json")


@pytest.fixture
def meter(runtime: Watched) -> Meter:
    return Meter(runtime, runtime.devices, clock=runtime.clock, now=lambda: 0.0)


async def _made(runtime: Watched, meter: Meter, **changes: object) -> tuple[KernelSpec, ContainerSeen]:
    spec = replace(a_spec(), **changes)  # type: ignore[arg-type]
    await runtime.create(spec)
    [seen] = [one for one in await SimulatedRuntime.containers(runtime) if one.kernel_id == spec.kernel_id]
    meter.begin(seen)
    return spec, seen


def _stats(meter: Meter, spec: KernelSpec) -> Stats | None:
    [kernel] = meter.kernels(spec.session_id)
    return kernel.stats


async def test_what_was_there_before_the_agent_is_found(runtime: Watched, meter: Meter) -> None:
    spec = a_spec()
    await runtime.create(spec)
    await meter.look()
    assert _stats(meter, spec) is not None


async def test_a_new_container_is_looked_at_often_and_an_old_one_seldom(runtime: Watched, meter: Meter) -> None:
    spec, _ = await _made(runtime, meter)
    seen = []
    for _ in range(31):
        await meter.look()
        seen.append(spec.kernel_id in runtime.measured[-1] if runtime.measured else False)
        runtime.measured.clear()
        runtime.time += 1
    assert seen[:12].count(True) == 11
    assert seen[12:].count(True) == 3


async def test_containers_are_listed_seldom(runtime: Watched, meter: Meter) -> None:
    for _ in range(60):
        await meter.look()
        runtime.time += 1
    assert runtime.listed == 2


async def test_while_the_list_cannot_be_had_what_is_known_is_measured(
    runtime: Watched, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> list[ContainerSeen]:
        raise OSError("away")

    spec, _ = await _made(runtime, meter)
    monkeypatch.setattr(runtime, "containers", away)
    runtime.time += 1
    await meter.look()
    assert _stats(meter, spec) is not None


async def test_a_container_that_dies_between_the_list_and_the_look_is_no_error(runtime: Watched, meter: Meter) -> None:
    spec, seen = await _made(runtime, meter)
    await runtime.remove(seen)
    runtime.time += 1
    await meter.look()
    assert meter.kernels(spec.session_id) == []


async def test_a_container_made_while_the_others_are_listed_is_not_forgotten(
    runtime: Watched, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = ContainerSeen("s", "late", 0, "c", "running")

    async def containers() -> list[ContainerSeen]:
        meter.begin(late)
        return []

    monkeypatch.setattr(runtime, "containers", containers)
    await meter.look()
    assert [kernel.kernel_id for kernel in meter.kernels()] == ["late"]


async def test_a_container_that_was_removed_by_hand_is_forgotten(runtime: Watched, meter: Meter) -> None:
    spec, seen = await _made(runtime, meter)
    await meter.look()
    await runtime.remove(seen)
    runtime.time += 31
    await meter.look()
    assert meter.kernels(spec.session_id) == []


async def test_the_last_look_is_part_of_the_usage_and_told_again(runtime: Watched, meter: Meter) -> None:
    spec, seen = await _made(runtime, meter)
    await meter.last_look([seen])
    usage = meter.end(spec.kernel_id, 0)
    assert usage is not None
    assert usage.mem_used_peak == 8 * 1024**2
    assert meter.kernels(spec.session_id) == []
    assert meter.end(spec.kernel_id, 0) == usage
    assert meter.end(spec.kernel_id, 1) is None


async def test_a_runtime_that_is_away_keeps_nobody_from_stopping(runtime: Watched, meter: Meter) -> None:
    spec, seen = await _made(runtime, meter)
    runtime.fails = True
    await meter.last_look([seen])
    assert meter.end(spec.kernel_id, 0) is None


async def test_what_is_not_measured_any_more_is_unknown(runtime: Watched, meter: Meter) -> None:
    spec, seen = await _made(runtime, meter)
    runtime.time += 1
    await meter.look()
    assert _stats(meter, spec) is not None
    await runtime.stop(seen, 0)
    runtime.time += 21
    await meter.look()
    assert _stats(meter, spec) is None


async def test_a_kernel_shows_the_devices_that_it_holds(runtime: Watched, meter: Meter) -> None:
    spec, _ = await _made(runtime, meter, devices={"gpu-0": 1}, env={"MOORAGE_SIM_DEVICE": "0.75"})
    await _made(runtime, meter, devices={"gpu-1": 1})
    runtime.time += 1
    await meter.look()
    stats = _stats(meter, spec)
    assert stats is not None
    assert [(one.device_id, one.utilisation) for one in stats.devices] == [("gpu-0", 75.0)]
    assert [one.device_id for one in meter.devices()] == ["gpu-0", "gpu-1"]


async def test_devices_are_asked_every_five_seconds_and_not_before_a_stop(runtime: Watched) -> None:
    asked: list[float] = []

    async def devices() -> Sequence[DeviceReading]:
        asked.append(runtime.time)
        return ()

    meter = Meter(runtime, devices, clock=runtime.clock)
    _, seen = await _made(runtime, meter)
    for _ in range(10):
        await meter.look()
        await meter.last_look([seen])
        runtime.time += 1
    assert asked == [100, 105]


async def test_accelerators_that_fail_cost_no_other_sample(runtime: Watched) -> None:
    async def broken() -> Sequence[DeviceReading]:
        raise RuntimeError("the library is not there")

    meter = Meter(runtime, broken, clock=runtime.clock)
    spec = a_spec()
    await runtime.create(spec)
    await meter.look()
    assert _stats(meter, spec) is not None
    assert meter.devices() == []


async def test_the_history_is_of_the_seconds_that_were_asked_for(runtime: Watched, meter: Meter) -> None:
    spec, _ = await _made(runtime, meter)
    for _ in range(21):
        await meter.look()
        runtime.time += 1
    [kernel] = meter.kernels(spec.session_id, 15)
    assert 2 <= len(kernel.history) < len(meter.kernels(spec.session_id, 900)[0].history)
    assert meter.kernels(spec.session_id)[0].history == []
