"""What was proven of kernels that are gone, kept on the node for an hour: orders that come late or again find it here.

They outlive the agent: one that is killed between a container's removal and its answer gives the same answer later, and
an order to create what was destroyed before a restart is still too late. A disk that takes nothing costs that, no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from moorage import log
from moorage.contracts.activities import Destroyed

# Orders for a kernel destroyed so long ago can't be on their way any more.
KEPT_S = 3600.0

_log = log.get("proofs")


@dataclass(frozen=True, slots=True)
class _Grave:
    """The last attempt of a kernel that was ordered to go, and what was proven of it. `at` is monotonic."""

    attempt: int
    at: float
    proof: Destroyed | None = None


@dataclass(frozen=True, slots=True)
class _Saved:
    attempt: int
    proof: Destroyed | None


_SAVED = TypeAdapter(_Saved)


class Proofs:
    def __init__(self, folder: Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Without a folder they are kept in memory alone."""
        self._folder = folder
        self._clock = clock
        self._graves: dict[str, _Grave] = {}
        if folder is not None and folder.is_dir():
            for file in folder.glob("*.json"):
                self._read(file)

    def bury(self, kernel_id: str, attempt: int) -> list[str]:
        """From now on creating this attempt is too late. Returns the kernels that are forgotten now."""
        forgotten = [one for one, grave in self._graves.items() if self._clock() - grave.at > KEPT_S]
        for one in forgotten:
            self._forget(one)
        known = self._graves.get(kernel_id)
        if known is None or known.attempt < attempt:
            self._write(kernel_id, _Grave(attempt, self._clock()))
        return forgotten

    def last_attempt(self, kernel_id: str) -> int:
        """That was ordered to go; -1 if none was."""
        grave = self._graves.get(kernel_id)
        return -1 if grave is None else grave.attempt

    def keep(self, proof: Destroyed) -> Destroyed:
        """Before the container is removed. What an earlier try knew, and this one can't, is added."""
        earlier = self.of(proof.kernel_id, proof.attempt)
        if earlier is not None:
            proof = replace(
                proof,
                exit=proof.exit or earlier.exit,
                log_bytes=proof.log_bytes or earlier.log_bytes,
                usage=proof.usage or earlier.usage,
                last_lines=proof.last_lines or earlier.last_lines,
            )
        if self.last_attempt(proof.kernel_id) <= proof.attempt:
            self._write(proof.kernel_id, _Grave(proof.attempt, self._clock(), proof))
        return proof

    def of(self, kernel_id: str, attempt: int) -> Destroyed | None:
        grave = self._graves.get(kernel_id)
        return grave.proof if grave is not None and grave.attempt == attempt else None

    def _write(self, kernel_id: str, grave: _Grave) -> None:
        self._graves[kernel_id] = grave
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = self._folder / f"{kernel_id}.partial"
            partial.write_bytes(_SAVED.dump_json(_Saved(grave.attempt, grave.proof)))
            partial.replace(self._folder / f"{kernel_id}.json")
        except OSError as error:
            _log.warning("the proof is not kept over a restart", kernel=kernel_id, error=str(error)[:200])

    def _read(self, file: Path) -> None:
        try:
            saved = _SAVED.validate_json(file.read_bytes())
            self._graves[file.stem] = _Grave(saved.attempt, self._clock(), saved.proof)
        except (OSError, ValueError) as error:
            _log.warning("a proof can't be read", file=file.name, error=str(error)[:200])

    def _forget(self, kernel_id: str) -> None:
        del self._graves[kernel_id]
        if self._folder is not None:
            with suppress(OSError):
                (self._folder / f"{kernel_id}.json").unlink()
