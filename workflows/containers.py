"""The containers of a session on their nodes: all made, all changed, all proven gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from moorage.contracts import activities as contract
from moorage.contracts.activities import CreatedKernel, Destroyed, Pulled, PullImage, PullMode
from moorage.domain.images import is_pinned, pinned
from moorage.domain.session import Ending, KernelSpec, Reason, SessionResult, SessionStatus
from moorage.domain.usage import KernelUsage
from workflows import steps
from workflows.told import Told

_S = SessionStatus
Record = Callable[[SessionStatus, str], Coroutine[Any, Any, None]]


class TryElsewhere(Exception):
    """This attempt is over; the session goes back into the queue. `avoid` names the node that failed it.

    `slots` are what its kernels ask from now on, if they are others.
    """

    def __init__(self, reason: Reason, message: str, *, avoid: str = "", slots: dict[str, int] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.avoid = avoid
        self.slots = slots or {}


class NoNodeHelps(Exception):
    """Trying elsewhere can't help; the session ends like this."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.message)
        self.ending = ending


class Containers:
    """`record` writes a status beside the work, with words for who looks at the workflow."""

    def __init__(self, told: Told, record: Record) -> None:
        self._told = told
        self._record = record
        self._usage: dict[tuple[str, int], KernelUsage] = {}
        self._pulling = 0
        self._last_lines: dict[str, str] = {}  # of those that failed

    async def make(self) -> list[CreatedKernel] | None:
        """All of them started; None if it was interrupted. Raises TryElsewhere or NoNodeHelps."""
        common = asyncio.create_task(self._common_digest()) if self._may_differ() else None
        made = [asyncio.create_task(self._make_one(kernel, common)) for kernel in self._told.kernels]
        recorded = asyncio.create_task(self._record(_S.CREATING, "its containers are made"))
        together = asyncio.gather(*made, recorded)
        try:
            await workflow.wait_condition(lambda: together.done() or self._told.interrupted())
            if not together.done():
                return None
            together.result()
            return [one.result() for one in made]
        finally:
            # What is still being made when one kernel has failed must not act for a later attempt.
            steps.drop(together, recorded, *made, *([common] if common else []))

    async def _make_one(self, kernel: KernelSpec, common: asyncio.Task[str] | None) -> CreatedKernel:
        try:
            if common is not None:
                kernel = replace(kernel, image=pinned(kernel.image, await asyncio.shield(common)))
            try:
                return await steps.create(kernel)
            except ActivityError as error:
                if steps.type_of(error) != contract.IMAGE_MISSING:
                    raise
            await self._pull(kernel)
            return await steps.create(kernel)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            message = steps.words_of(error)
            if steps.type_of(error) == contract.IMAGE_PULL_FAILED:
                ending = Ending(_S.ERROR, Reason.IMAGE_PULL_FAILED, message, SessionResult.FAILURE)
                raise NoNodeHelps(ending) from error
            raise TryElsewhere(Reason.FAILED_TO_CREATE, message, avoid=kernel.agent_id) from error

    def _may_differ(self) -> bool:
        """A tag may mean one image here and another there; all kernels of a gang run the same."""
        kernels = self._told.kernels
        nodes = {kernel.agent_id for kernel in kernels}
        return len(nodes) > 1 and not is_pinned(kernels[0].image) and workflow.patched("one-image-for-a-gang")

    async def _common_digest(self) -> str:
        """Of what the main kernel's node has, or pulls now; empty if it came from no registry."""
        main = self._told.kernels[0]
        try:
            found = await steps.pull(main.agent_id, PullImage(main.image, PullMode.LOOK))
        except ActivityError as error:
            if steps.type_of(error) != contract.IMAGE_MISSING:
                raise
            found = await self._pull(main)
        return found.digest if found is not None else ""

    async def _pull(self, kernel: KernelSpec) -> Pulled | None:
        """PREPARING until the last of the kernels' pulls has ended."""
        fresh = workflow.patched("credentials-of-registries")
        self._pulling += 1
        try:
            await self._record(_S.PREPARING, f"image {kernel.image} is pulled on {kernel.agent_id}")
            order = await steps.pull_order(kernel.image) if fresh else PullImage(kernel.image)
            found = await steps.pull(kernel.agent_id, order)
        finally:
            self._pulling -= 1
        if not fresh or not self._pulling:
            await self._record(_S.CREATING, "its containers are made")
        return found

    async def remove(self, *, grace_s: float) -> list[str]:
        """Proven gone. Returns the nodes that are lost: there they are fenced instead."""
        kernels = self._told.kernels
        fenced = await asyncio.gather(*(self._remove_one(kernel, grace_s) for kernel in kernels))
        return sorted({kernel.agent_id for kernel, lost in zip(kernels, fenced, strict=True) if lost})

    async def _remove_one(self, kernel: KernelSpec, grace_s: float) -> bool:
        """Asks until the node proves it or is lost (True). No deadline: without proof the allocation is held."""
        told = self._told
        while kernel.agent_id not in told.lost:
            forced = told.forced()
            task = steps.start_destroy(kernel, 0 if forced else grace_s)
            await workflow.wait_condition(
                lambda task=task, forced=forced: (  # type: ignore[misc]
                    task.done() or kernel.agent_id in told.lost or told.forced() != forced
                )
            )
            if not task.done():
                task.cancel()
                continue
            try:
                self._note_proof(await task)
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                workflow.set_current_details(f"**TERMINATING**: node {kernel.agent_id} does not answer; asked again")
                continue
            return False
        return True

    def _note_proof(self, proof: Destroyed) -> None:
        if proof.exit is not None:
            self._told.exits.setdefault(proof.kernel_id, proof.exit)
        if proof.usage is not None:
            self._usage[proof.kernel_id, proof.attempt] = proof.usage
        if proof.last_lines:
            self._last_lines.setdefault(proof.kernel_id, proof.last_lines)

    @property
    def usage(self) -> list[KernelUsage]:
        """Of those that are gone, as far as it was not kept yet."""
        return list(self._usage.values())

    @property
    def last_lines(self) -> str:
        """The main one's if it failed, else of another that did."""
        return next(
            (self._last_lines[one.kernel_id] for one in self._told.kernels if one.kernel_id in self._last_lines), ""
        )

    def forget(self) -> None:
        self._usage.clear()
        self._last_lines.clear()

    async def change(self, slots: dict[str, int], back_to: dict[str, int]) -> tuple[str, bool]:
        """("", True) once all have the new limits. Else why not, and whether all have the old ones.

        They have not if one has grown into its new limits already, so that it can't go back.
        """
        kernels = self._told.kernels
        refusals = await asyncio.gather(*(self._change_one(kernel, slots) for kernel in kernels))
        refusal = next((one for one in refusals if one), "")
        if not refusal or self._told.interrupted():
            return refusal, not refusal
        return refusal, await self._change_back(
            [kernel for kernel, one in zip(kernels, refusals, strict=True) if not one], back_to
        )

    async def _change_back(self, changed: Sequence[KernelSpec], slots: dict[str, int]) -> bool:
        stuck = await asyncio.gather(*(self._change_one(kernel, slots) for kernel in changed))
        return not any(stuck) or bool(self._told.exits)

    async def _change_one(self, kernel: KernelSpec, slots: dict[str, int]) -> str:
        """Empty once the container has the limits, else why not. A node that is silent is asked until it is lost."""
        told = self._told
        while not told.interrupted():
            task = steps.start_update(kernel, slots)
            await workflow.wait_condition(lambda task=task: task.done() or told.interrupted())  # type: ignore[misc]
            if not task.done():
                steps.drop(task)
                break
            try:
                await task
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                if steps.type_of(error) == contract.UPDATE_REFUSED or told.exits:
                    return steps.words_of(error)
                continue
            return ""
        return "the session is stopping"
