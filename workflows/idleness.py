"""What the nodes say of a session's idleness: it is as idle as the busiest of its kernels."""

from __future__ import annotations

from moorage.contracts.activities import IdleReport
from moorage.domain.idle import IdleStage

_ORDER = [IdleStage.ACTIVE, IdleStage.WARNED, IdleStage.IDLE]


class Idleness:
    def __init__(self) -> None:
        self._reports: dict[str, IdleReport] = {}
        self._stage = IdleStage.ACTIVE

    def hear(self, report: IdleReport, *, kernels: int) -> str:
        """The line for the timeline, if the session as a whole is otherwise now than before."""
        self._reports[report.kernel_id] = report
        stages = [IdleStage(one.stage) for one in self._reports.values()]
        whole = min(stages, key=_ORDER.index) if len(stages) == kernels else IdleStage.ACTIVE
        before, self._stage = self._stage, whole
        if whole is before:
            return ""
        if whole is IdleStage.ACTIVE:
            return "is used again"
        if whole is IdleStage.IDLE:
            return f"would be stopped now, but this is a dry run: {report.message}" if report.dry_run else ""
        return report.message

    def end(self) -> str:
        """Why it is to be stopped, in words; empty as long as it is not."""
        if self._stage is not IdleStage.IDLE or any(one.dry_run for one in self._reports.values()):
            return ""
        return next(iter(self._reports.values())).message

    def clear(self) -> None:
        """Other containers: nothing is known of them."""
        self._reports.clear()
        self._stage = IdleStage.ACTIVE
