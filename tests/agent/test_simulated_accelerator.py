"""Pretended devices: how they are asked for, and what can happen to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_worker.accelerators.simulated import Simulated, simulated_devices
from moorage.domain.errors import InvalidRequest

GIB = 1024**3


def test_a_slot_and_a_count_are_enough() -> None:
    devices = simulated_devices("cuda.device=4, cuda.shares=2")
    assert [(device.device_id, device.total, device.numa) for device in devices] == [
        ("cuda.device-0", 1, 0), ("cuda.device-1", 1, 0), ("cuda.device-2", 1, 1), ("cuda.device-3", 1, 1),
        ("cuda.shares-0", 100, 0), ("cuda.shares-1", 100, 1),
    ]  # fmt: skip
    assert {device.model for device in devices} == {"simulated"}
    assert simulated_devices("") == []


def test_model_memory_and_numa_nodes_may_be_said() -> None:
    devices = simulated_devices("tpu.device=4:model=v5:memory=16g:numa=4")
    assert [(device.model, device.memory, device.numa) for device in devices] == [("v5", 16 * GIB, n) for n in range(4)]


@pytest.mark.parametrize(
    "text",
    ["cuda.device", "cuda.device=0", "cuda.device=-1", "cpu=4", "mem=1", "=4", "cuda.device=4:colour=red",
     "cuda.device=4:numa=0", "cuda.device=1025", "cuda.device=4:memory=much"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        simulated_devices(text)


def test_a_container_gets_variables_only(tmp_path: Path) -> None:
    devices = simulated_devices("cuda.shares=2:memory=16g,tpu.device=1")
    reserved = Simulated(devices, tmp_path / "none").reserve({"cuda.shares-1": 50, "tpu.device-0": 1})
    assert reserved.environment == {
        "MOORAGE_DEVICES": "cuda.shares-1,tpu.device-0",
        "CUDA_VISIBLE_DEVICES": "cuda.shares-1",
        "MOORAGE_GPU_MEMORY_BYTES": str(8 * GIB),
    }
    assert (reserved.nodes, reserved.mounts, reserved.requests) == ([], [], [])


def test_load_is_pretended_too(tmp_path: Path) -> None:
    (tmp_path / "now.json").write_text('{"cuda.device-1": {"utilisation": 0.9, "memory_used": 1024}}')
    measures = Simulated(simulated_devices("cuda.device=2:memory=1g"), tmp_path / "now.json").measure()
    assert [(one.utilisation, one.memory_used, one.memory_total) for one in measures] == [
        (0.0, 0, GIB), (0.9, 1024, GIB),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"cuda.device-0": "ill"}', '{"other-0": {"fault": "x"}}'])
def test_a_file_that_says_nothing_breaks_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "now.json").write_text(text)
    accelerator = Simulated(simulated_devices("cuda.device=1"), tmp_path / "now.json")
    assert accelerator.health() == {}
    assert len(accelerator.measure()) == 1
