"""What is kept of kernels that are gone."""

from __future__ import annotations

from pathlib import Path

from agent_worker.proofs import KEPT_S, Proofs
from moorage.contracts.activities import Destroyed
from moorage.domain.session import KernelExit
from moorage.domain.usage import DeviceUsage, KernelUsage

PROOF = Destroyed(
    "k1",
    1,
    existed=True,
    exit=KernelExit("k1", 1, 137, oom_killed=True, at=12.5),
    log_bytes=7,
    usage=KernelUsage("k1", 1, 3.5, cpu_ms=12, devices=[DeviceUsage("gpu-0", 0.5)]),
)


def test_the_next_process_of_the_agent_knows_what_was_proven(tmp_path: Path) -> None:
    before = Proofs(tmp_path / "proofs")
    before.bury("k1", 1)
    before.keep(PROOF)
    before.bury("k2", 0)
    after = Proofs(tmp_path / "proofs")
    assert after.of("k1", 1) == PROOF
    assert [after.last_attempt(kernel) for kernel in ("k1", "k2", "k3")] == [1, 0, -1]
    assert after.of("k2", 0) is None, "it was ordered to go, and nothing is proven"


def test_a_second_try_adds_to_what_the_first_one_knew(tmp_path: Path) -> None:
    proofs = Proofs(tmp_path)
    proofs.keep(PROOF)
    assert proofs.keep(Destroyed("k1", 1, existed=True)) == PROOF
    proofs.keep(Destroyed("k1", 0, existed=True))
    assert proofs.last_attempt("k1") == 1, "an older attempt's end takes nothing back"


def test_after_an_hour_all_is_forgotten_and_a_file_that_is_no_proof_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "k9.json").write_text("{half")
    now = [0.0]
    proofs = Proofs(tmp_path, clock=lambda: now[0])
    proofs.keep(PROOF)
    now[0] = KEPT_S + 1
    assert proofs.bury("k2", 0) == ["k1"]
    assert proofs.last_attempt("k1") == -1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k2.json", "k9.json"]
