"""NVIDIA's GPUs by a recorded library, and the real one where there is a card."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from agent_worker.accelerators import cuda
from agent_worker.accelerators.cuda import Cuda, from_settings
from moorage.contracts.accelerators import DeviceProcess, EngineRequest
from moorage.settings import Settings
from tests.agent.nvidia import GIB, Card, RecordedNvml, a_mig_node, eight_gpus, sysfs


def a_cuda(nvml: RecordedNvml, *, shares: bool = False, cdi: bool = False, tree: Path = Path("/nowhere")) -> Cuda:
    accelerator = Cuda(nvml, shares=shares, cdi=cdi, sysfs=tree)
    accelerator.fingerprint()
    return accelerator


def test_whole_gpus_are_devices_on_their_numa_nodes(tmp_path: Path) -> None:
    nvml = eight_gpus()
    devices = Cuda(nvml, shares=False, cdi=False, sysfs=sysfs(tmp_path, nvml)).fingerprint()
    assert [device.device_id for device in devices] == [f"GPU-{n}" for n in range(8)]
    assert [device.numa for device in devices] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert {(d.slot, d.total, d.model, d.memory) for d in devices} == {
        ("cuda.device", 1, "NVIDIA H100 80GB HBM3", 80 * GIB)
    }


def test_a_numa_node_that_the_firmware_does_not_tell_is_none(tmp_path: Path) -> None:
    nvml = RecordedNvml(Card("GPU-0", "00000000:1A:00.0"))
    (sysfs(tmp_path, nvml) / "bus/pci/devices/0000:1a:00.0/numa_node").write_text("-1\n")
    assert Cuda(nvml, shares=False, cdi=False, sysfs=tmp_path).fingerprint()[0].numa is None
    assert Cuda(nvml, shares=False, cdi=False, sysfs=tmp_path / "none").fingerprint()[0].numa is None


@pytest.mark.parametrize("shares", [False, True])
def test_slices_are_slots_of_their_own_and_a_cut_gpu_is_none(shares: bool) -> None:
    devices = Cuda(a_mig_node(), shares=shares, cdi=False).fingerprint()
    whole = "cuda.shares" if shares else "cuda.device"
    assert [(device.device_id, device.slot) for device in devices] == [
        ("MIG-a", "cuda.3g.40gb-mig"),
        ("MIG-b", "cuda.1g.10gb-mig"),
        ("MIG-c", "cuda.1g.10gb-me-mig"),
        ("GPU-2", whole),
    ]
    assert [device.memory // GIB for device in devices] == [40, 10, 10, 80]


def test_without_the_library_it_says_so_once_and_offers_none(capfd: pytest.CaptureFixture[str]) -> None:
    accelerator = Cuda(RecordedNvml(missing=True), shares=False, cdi=False)
    assert accelerator.fingerprint() == []
    assert [accelerator.health(), accelerator.health()] == [{}, {}]
    assert accelerator.measure() == []
    assert accelerator.reserve({}).environment == {}
    said = "".join(capfd.readouterr())
    assert said.count("no NVIDIA GPUs are offered") == 1
    assert "Traceback" not in said


def test_a_gpu_that_is_lost_at_the_start_does_not_hide_the_others() -> None:
    nvml = eight_gpus()
    nvml.cards[2].lost = True
    assert len(Cuda(nvml, shares=False, cdi=False).fingerprint()) == 7


def test_a_whole_gpu_is_asked_of_docker_by_its_uuid() -> None:
    reserved = a_cuda(eight_gpus()).reserve({"GPU-3": 1, "GPU-1": 1})
    assert reserved.requests == [EngineRequest("nvidia", ["GPU-3", "GPU-1"], ["gpu", "compute", "utility"])]
    assert reserved.environment == {"NVIDIA_VISIBLE_DEVICES": "GPU-3,GPU-1"}


def test_by_cdi_the_specifications_names_are_asked() -> None:
    reserved = a_cuda(eight_gpus(), cdi=True).reserve({"GPU-3": 1})
    assert reserved.requests == [EngineRequest("cdi", ["nvidia.com/gpu=GPU-3"])]
    assert reserved.environment == {"NVIDIA_VISIBLE_DEVICES": "void"}


def test_a_share_sees_its_gpu_alone_and_is_told_its_memory() -> None:
    reserved = a_cuda(eight_gpus(), shares=True).reserve({"GPU-3": 100, "GPU-5": 50})
    assert reserved.environment["CUDA_VISIBLE_DEVICES"] == "GPU-3,GPU-5"
    assert reserved.environment["MOORAGE_GPU_MEMORY_BYTES"] == f"{80 * GIB},{40 * GIB}"
    assert reserved.requests[0].ids == ["GPU-3", "GPU-5"]


def test_a_container_without_a_gpu_sees_none_whatever_its_image_asks() -> None:
    assert a_cuda(eight_gpus()).reserve({}).environment == {"NVIDIA_VISIBLE_DEVICES": "void"}


def test_a_fault_of_the_card_stands_and_a_fault_of_a_program_does_not() -> None:
    nvml = eight_gpus()
    accelerator = a_cuda(nvml)
    nvml.waiting += [(nvml.cards[1], 31), (nvml.cards[4], 79), (nvml.cards[1], 13)]
    assert accelerator.health() == {"GPU-4": "the driver reported XID 79; repair it, then restart the agent"}
    assert set(accelerator.health()) == {"GPU-4"}
    assert a_cuda(nvml).health() == {}


def test_cards_whose_driver_has_no_events_are_not_watched() -> None:
    nvml = RecordedNvml(Card("GPU-0", "0", events=0), Card("GPU-1", "1"))
    a_cuda(nvml)
    assert nvml.watched == ["GPU-1"]


def test_a_lost_card_does_not_answer_and_its_slices_are_unhealthy() -> None:
    nvml = a_mig_node()
    accelerator = a_cuda(nvml)
    nvml.cards[0].lost = True
    faults = accelerator.health()
    assert set(faults) == {"MIG-a", "MIG-b", "MIG-c"}
    assert "does not answer" in faults["MIG-a"]
    assert [one.device_id for one in accelerator.measure() if one.memory_total is not None] == ["GPU-2"]


def test_a_card_without_ecc_is_healthy() -> None:
    nvml = RecordedNvml(Card("GPU-0", "0", name="NVIDIA GeForce RTX 4090", ecc=None, events=0))
    accelerator = a_cuda(nvml)
    assert accelerator.health() == {}
    assert accelerator.measure()[0].uncorrected_errors is None


def test_a_gpu_is_measured() -> None:
    nvml = RecordedNvml(Card("GPU-0", "0", used=GIB, busy=35, processes=[(4711, GIB)]))
    [measure] = a_cuda(nvml).measure()
    assert (measure.utilisation, measure.memory_used, measure.memory_total) == (0.35, GIB, 80 * GIB)
    assert (measure.temperature_c, measure.power_w, measure.uncorrected_errors) == (41, 72.5, 0)
    assert measure.processes == [DeviceProcess(4711, GIB)]


def test_a_slice_says_nothing_of_its_utilisation() -> None:
    measure = a_cuda(a_mig_node()).measure()[0]
    assert (measure.device_id, measure.utilisation, measure.memory_used) == ("MIG-a", None, GIB)


@pytest.mark.parametrize(
    ("offer", "runtime"), [("none", "docker"), ("devices", "simulated")], ids=["switched-off", "simulated-runtime"]
)
def test_gpus_may_be_kept_out(offer: str, runtime: str) -> None:
    assert from_settings(Settings(agent_cuda_offer=offer, agent_runtime=runtime)) is None


@pytest.mark.parametrize(
    ("attach", "hook", "specified", "cdi"),
    [("auto", True, True, False), ("auto", False, True, True), ("auto", False, False, False),
     ("cdi", True, False, True), ("device-request", False, True, False)],
)  # fmt: skip
def test_how_gpus_are_attached(
    attach: str, hook: bool, specified: bool, cdi: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, folder = tmp_path / "bin", tmp_path / "cdi"
    programs.mkdir()
    folder.mkdir()
    if hook:
        (programs / "nvidia-container-runtime-hook").touch(mode=0o755)
    if specified:
        (folder / "nvidia.yaml").touch()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(cuda, "_CDI_FOLDERS", (folder,))
    made = from_settings(Settings(agent_cuda_attach=attach))
    assert made is not None
    nvml = eight_gpus()
    made._nvml = nvml
    made.fingerprint()
    assert (made.reserve({"GPU-0": 1}).requests[0].driver == "cdi") is cdi


@pytest.fixture
def card() -> Cuda:
    """A real one."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"no NVIDIA GPU on this machine: {error}")
    found = Cuda(pynvml, shares=False, cdi=False)
    if not found.fingerprint():
        pytest.skip("NVIDIA's library is here, but no GPU")
    return found


@pytest.mark.gpu
def test_a_real_gpu_is_described_healthy_and_measured(card: Cuda) -> None:
    [device, *_] = card.fingerprint()
    assert device.device_id.startswith(("GPU-", "MIG-"))
    assert device.model
    assert card.health() == {}
    measure = card.measure()[0]
    assert measure.device_id == device.device_id
    assert (measure.memory_total or 0) >= (measure.memory_used or 0) >= 0
    assert 0 < (measure.temperature_c or 20) < 120
