"""What a session's workflow was told, and what that means. Handlers write it, `run` acts on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from moorage.contracts.activities import Assignment, Cancel, HealthChange, IdleReport, NodeLost, Preempt
from moorage.domain.resources import MEM
from moorage.domain.session import Ending, KernelExit, KernelSpec, SessionStatus


class Told:
    def __init__(self, assignment: Assignment | None) -> None:
        self.assignment = assignment
        self.stop: Cancel | None = None
        self.exits: dict[str, KernelExit] = {}
        self.lost: dict[str, NodeLost] = {}
        self.preemption: Preempt | None = None
        self.news: deque[HealthChange | IdleReport] = deque()

    @property
    def kernels(self) -> list[KernelSpec]:
        """Of the attempt that is placed, the main one first."""
        return self.assignment.kernels if self.assignment is not None else []

    def place(self, assignment: Assignment, *, attempt: int) -> bool:
        """True if it is news. A newer one may come while the requeue that made room for it is still being recorded."""
        known = self.assignment.attempt if self.assignment is not None else -1
        if assignment.attempt < attempt or assignment.attempt <= known:
            return False
        self.assignment = assignment
        return True

    def cancel(self, cancel: Cancel) -> None:
        """The first one counts; a later one may leave no grace."""
        if self.stop is None:
            self.stop = cancel
        elif cancel.forced and not self.stop.forced:
            self.stop = replace(self.stop, forced=True)

    def lose(self, lost: NodeLost) -> None:
        if lost.agent_id in {kernel.agent_id for kernel in self.kernels}:
            self.lost.setdefault(lost.agent_id, lost)

    def preempt(self, preempt: Preempt) -> None:
        if self.preemption is None and self.assignment is not None and preempt.attempt == self.assignment.attempt:
            self.preemption = preempt

    def exit(self, exit: KernelExit) -> None:
        if self.is_current(exit):
            self.exits.setdefault(exit.kernel_id, exit)

    def hear(self, news: HealthChange | IdleReport) -> None:
        if self.is_current(news):
            self.news.append(news)

    def is_current(self, told: KernelExit | HealthChange | IdleReport) -> bool:
        """Not of a container that was replaced since."""
        return any(told.kernel_id == one.kernel_id and told.attempt == one.attempt for one in self.kernels)

    def interrupted(self) -> bool:
        """By a wish to stop, a loss or a preemption."""
        return self.stop is not None or bool(self.lost) or self.preemption is not None

    def wants_attention(self) -> bool:
        return bool(self.exits) or self.interrupted() or bool(self.news)

    def forced(self) -> bool:
        return self.stop is not None and self.stop.forced

    def first_exit(self) -> KernelExit | None:
        """The main kernel's, if it has ended; else that of the one that ended first."""
        first = next(iter(self.exits.values()), None)
        return self.exits.get(self.kernels[0].kernel_id, first) if self.kernels else first

    def mem_limit(self, kernel_id: str) -> int | None:
        return next((one.slots.get(MEM) for one in self.kernels if one.kernel_id == kernel_id), None)

    def cancelled(self, status: SessionStatus) -> Ending:
        assert self.stop is not None
        return Ending(status, self.stop.reason, self.stop.message or f"by {self.stop.actor}")

    def resized(self, slots: dict[str, int]) -> None:
        assert self.assignment is not None
        kernels: Sequence[KernelSpec] = [replace(kernel, slots=slots) for kernel in self.kernels]
        self.assignment = replace(self.assignment, kernels=list(kernels))

    def forget_containers(self) -> None:
        """What was said of them: they are gone."""
        self.exits.clear()
        self.news.clear()
