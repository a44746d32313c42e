"""The life of a session, from the queue to the proof that nothing of it is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from moorage.contracts import activities as contract
from moorage.contracts import names
from moorage.contracts.activities import (
    Assignment,
    Cancel,
    CreatedKernel,
    Destroy,
    Destroyed,
    Finish,
    KernelActivities,
    Move,
    NodeLost,
    Preempt,
    Pulled,
    PullImage,
    PullMode,
    Requeue,
    SessionActivities,
    SessionInput,
    Started,
)
from moorage.contracts.shown import Shown
from moorage.domain.images import is_pinned, pinned
from moorage.domain.session import (
    Ending,
    KernelExit,
    KernelSpec,
    NodeLossPolicy,
    Reason,
    SessionResult,
    SessionStatus,
    ending_of,
)
from moorage.domain.usage import KernelUsage
from workflows import options, pull

_S = SessionStatus
_Order = TypeVar("_Order")


class _TryElsewhere(Exception):
    """This attempt is over; the session goes back into the queue. `avoid` names the node that failed it."""

    def __init__(self, reason: Reason, message: str, *, avoid: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.avoid = avoid


class _NoNodeHelps(Exception):
    """Trying elsewhere can't help; the session ends like this."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.message)
        self.ending = ending


@workflow.defn(name="SessionWorkflow")
class SessionWorkflow:
    """One session. Handlers only note what was said; `run` alone acts, so nothing interleaves with it."""

    @workflow.init
    def __init__(self, session: SessionInput) -> None:
        self._session = session
        self._attempt = session.attempt
        self._failures = session.failures
        self._assignment: Assignment | None = None
        self._cancel: Cancel | None = None
        self._exits: dict[str, KernelExit] = {}
        self._usage: dict[str, KernelUsage] = {}
        self._lost: dict[str, NodeLost] = {}
        self._preempt: Preempt | None = None
        self._first_failure = session.first_failure
        self._status = str(_S.PENDING)
        self._pulling = 0

    @workflow.signal
    def assigned(self, assignment: Assignment) -> None:
        known = self._assignment.attempt if self._assignment is not None else -1
        # A newer one may come while the requeue that made room for it is still being recorded here.
        if assignment.attempt >= self._attempt and assignment.attempt > known:
            self._attempt = assignment.attempt
            self._assignment = assignment

    @workflow.signal
    def cancel(self, cancel: Cancel) -> None:
        if self._cancel is None:
            self._cancel = cancel
        elif cancel.forced and not self._cancel.forced:
            self._cancel = replace(self._cancel, forced=True)

    @workflow.signal
    def kernel_exited(self, exit: KernelExit) -> None:
        if self._is_current(exit):
            self._exits.setdefault(exit.kernel_id, exit)

    @workflow.signal
    def node_lost(self, lost: NodeLost) -> None:
        if lost.agent_id in {kernel.agent_id for kernel in self._kernels}:
            self._lost.setdefault(lost.agent_id, lost)

    @workflow.signal
    def preempt(self, preempt: Preempt) -> None:
        if self._preempt is None and self._assignment is not None and preempt.attempt == self._assignment.attempt:
            self._preempt = preempt

    @workflow.query
    def snapshot(self) -> str:
        return self._status

    @workflow.run
    async def run(self, session: SessionInput) -> str:
        if session.recovered:
            return await self._end_what_is_left()
        while True:
            self._show(_S.PENDING, "waits for a node")
            ending = await self._wait_for_a_node()
            if ending is not None:
                return await self._finish(ending)
            try:
                ending = await self._live()
                fenced = await self._clean_up(ending)
            except _TryElsewhere as failure:
                fenced = await self._make_room(failure)
                ended = self._ending_instead_of(failure)
                if ended is None:
                    await self._requeue(failure, fenced)
                    continue
                ending = ended
            return await self._finish(ending, fenced)

    def _ending_instead_of(self, failure: _TryElsewhere) -> Ending | None:
        """The ending, if the session was stopped meanwhile or has failed to start too often; else it is requeued."""
        if self._cancel is not None:
            return self._cancelled(_S.TERMINATED)
        self._failures += failure.reason is Reason.FAILED_TO_CREATE
        if self._failures >= self._session.max_attempts:
            return Ending(_S.ERROR, failure.reason, self._first_failure, SessionResult.FAILURE)
        return None

    async def _wait_for_a_node(self) -> Ending | None:
        """None once assigned. A cancel that crosses a placement is settled by the row lock in `finish_session`."""
        timeout = self._session.pending_timeout_s or None
        try:
            await workflow.wait_condition(
                lambda: self._cancel is not None or self._assignment is not None, timeout=timeout
            )
        except TimeoutError:
            message = f"no node had room within {self._session.pending_timeout_s:g} s"
            return Ending(_S.CANCELLED, Reason.PENDING_TIMEOUT, message)
        return self._cancelled(_S.CANCELLED) if self._cancel is not None else None

    async def _live(self) -> Ending:
        """Creates the kernels and waits for the end. Undone by `_clean_up` or, on failure, `_remove_containers`."""
        created = await self._create()
        if isinstance(created, Ending):
            return created
        nodes = ", ".join(sorted({kernel.agent_id for kernel in self._kernels}))
        await self._local(
            SessionActivities.record_started,
            Started(self._session.session_id, self._attempt, created, self._kernels[0].agent_id, f"on {nodes}"),
            "record RUNNING",
        )
        self._show(_S.RUNNING, f"runs on {nodes}")
        for kernel in created:
            if kernel.exit is not None:
                self._exits.setdefault(kernel.kernel_id, kernel.exit)
        if not self._exits:
            workflow.upsert_search_attributes(
                [names.STATUS.value_set(_S.RUNNING), names.AGENT.value_set(self._kernels[0].agent_id)]
            )
        return await self._wait_for_the_end()

    async def _create(self) -> list[CreatedKernel] | Ending:
        """All kernels started, or the ending that came first."""
        self._show(_S.CREATING, "its containers are made")
        common = asyncio.create_task(self._common_digest()) if self._may_differ() else None
        made = [asyncio.create_task(self._create_one(kernel, common)) for kernel in self._kernels]
        recorded = asyncio.create_task(
            self._local(SessionActivities.move_session, self._move(_S.CREATING), "record CREATING")
        )
        together = asyncio.gather(*made, recorded)
        try:
            await workflow.wait_condition(lambda: together.done() or self._interrupted())
            if not together.done():
                return self._interruption()
            together.result()
            return [one.result() for one in made]
        except _NoNodeHelps as end:
            return end.ending
        finally:
            # What is still being made when one kernel has failed must not act for a later attempt.
            _drop(together, recorded, *made, *([common] if common else []))

    async def _create_one(self, kernel: KernelSpec, common: asyncio.Task[str] | None = None) -> CreatedKernel:
        try:
            if common is not None:
                kernel = replace(kernel, image=pinned(kernel.image, await asyncio.shield(common)))
            try:
                return await self._start_create(kernel)
            except ActivityError as error:
                if _type_of(error) != contract.IMAGE_MISSING:
                    raise
            await self._pull(kernel)
            return await self._start_create(kernel)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            cause = error.cause
            message = getattr(cause, "message", "") or str(cause)
            if _type_of(error) == contract.IMAGE_PULL_FAILED:
                raise _NoNodeHelps(
                    Ending(_S.ERROR, Reason.IMAGE_PULL_FAILED, message, SessionResult.FAILURE)
                ) from error
            self._first_failure = self._first_failure or message
            raise _TryElsewhere(Reason.FAILED_TO_CREATE, message, avoid=kernel.agent_id) from error

    def _may_differ(self) -> bool:
        """A tag may mean one image here and another there; all kernels of a gang run the same."""
        nodes = {kernel.agent_id for kernel in self._kernels}
        return len(nodes) > 1 and not is_pinned(self._kernels[0].image) and workflow.patched("one-image-for-a-gang")

    async def _common_digest(self) -> str:
        """Of what the main kernel's node has, or pulls now; empty if it came from no registry."""
        main = self._kernels[0]
        try:
            found = await pull.pull_on(main.agent_id, PullImage(main.image, PullMode.LOOK))
        except ActivityError as error:
            if _type_of(error) != contract.IMAGE_MISSING:
                raise
            found = await self._pull(main)
        return found.digest if found is not None else ""

    async def _pull(self, kernel: KernelSpec) -> Pulled | None:
        """PREPARING until the last of the kernels' pulls has ended."""
        fresh = workflow.patched("credentials-of-registries")
        self._pulling += 1
        try:
            await self._local(SessionActivities.move_session, self._move(_S.PREPARING), "record PREPARING")
            self._show(_S.PREPARING, f"image {kernel.image} is pulled on {kernel.agent_id}")
            order = await pull.order_for(kernel.image) if fresh else PullImage(kernel.image)
            found = await pull.pull_on(kernel.agent_id, order)
        finally:
            self._pulling -= 1
        if not fresh or not self._pulling:
            await self._local(SessionActivities.move_session, self._move(_S.CREATING), "record CREATING")
        return found

    async def _start_create(self, kernel: KernelSpec) -> CreatedKernel:
        return await workflow.execute_activity_method(
            KernelActivities.create_kernel,
            kernel,
            task_queue=names.agent_queue(kernel.agent_id),
            schedule_to_start_timeout=options.NODE_PICKUP,
            start_to_close_timeout=options.CREATE_TIMEOUT,
            heartbeat_timeout=options.NODE_HEARTBEAT,
            retry_policy=options.CREATE_RETRY,
            cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
            summary=Shown(f"create the container on {kernel.agent_id}"),
        )

    async def _wait_for_the_end(self) -> Ending:
        """A container's exit, a wish, a loss or a deadline, whichever comes first."""
        deadlines = [
            (seconds, reason)
            for seconds, reason in (
                (self._session.lifetime_s, Reason.LIFETIME_EXCEEDED),
                (self._session.batch_timeout_s, Reason.BATCH_TIMEOUT),
            )
            if seconds
        ]
        timeout, reason = min(deadlines, default=(None, Reason.NONE), key=lambda deadline: deadline[0] or 0)
        try:
            await workflow.wait_condition(lambda: bool(self._exits) or self._interrupted(), timeout=timeout)
        except TimeoutError:
            return Ending(_S.TERMINATED, reason, f"ran for {timeout:g} s, its limit", SessionResult.FAILURE)
        exit = self._first_exit()
        return ending_of(exit) if exit is not None else self._interruption()

    async def _clean_up(self, ending: Ending) -> list[str]:
        """The containers are gone. Returns the lost nodes, where they are fenced instead."""
        if not self._lost and (not self._exits or len(self._kernels) > 1):
            await self._record_terminating(ending.reason, ending.message)
        return await self._remove_containers(grace_s=self._session.grace_s)

    async def _make_room(self, failure: _TryElsewhere) -> list[str]:
        """As `_clean_up`, after an attempt that is not the last: only who was preempted has a grace period."""
        if failure.reason is not Reason.PREEMPTED:
            return await self._remove_containers(grace_s=0)
        await self._record_terminating(failure.reason, failure.message)
        return await self._remove_containers(grace_s=self._session.grace_s)

    async def _record_terminating(self, reason: str, message: str) -> None:
        self._show(_S.TERMINATING, f"stops: {reason}")
        await self._local(
            SessionActivities.move_session,
            self._move(_S.TERMINATING, reason=reason, message=message),
            "record TERMINATING",
        )

    async def _remove_containers(self, *, grace_s: float) -> list[str]:
        """Returns the nodes that are lost: their containers are fenced instead of proven gone."""
        fenced = await asyncio.gather(*(self._remove(kernel, grace_s) for kernel in self._kernels))
        return sorted({kernel.agent_id for kernel, lost in zip(self._kernels, fenced, strict=True) if lost})

    async def _remove(self, kernel: KernelSpec, grace_s: float) -> bool:
        """Asks until the node proves it or is lost (True). No deadline: without proof the allocation is held."""
        while kernel.agent_id not in self._lost:
            forced = self._forced()
            order = Destroy(kernel.session_id, kernel.kernel_id, kernel.attempt, 0 if forced else grace_s)
            task = workflow.start_activity_method(
                KernelActivities.destroy_kernel,
                order,
                task_queue=names.agent_queue(kernel.agent_id),
                schedule_to_start_timeout=options.NODE_PICKUP,
                start_to_close_timeout=timedelta(seconds=order.grace_s) + options.DESTROY_MARGIN,
                heartbeat_timeout=options.NODE_HEARTBEAT,
                retry_policy=options.DESTROY_RETRY,
                cancellation_type=workflow.ActivityCancellationType.ABANDON,
                summary=Shown(f"remove the container on {kernel.agent_id}"),
            )
            await workflow.wait_condition(
                lambda task=task, forced=forced: (  # type: ignore[misc]
                    task.done() or kernel.agent_id in self._lost or self._forced() != forced
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
                self._show(_S.TERMINATING, f"node {kernel.agent_id} does not answer; asked again")
                continue
            return False
        return True

    def _note_proof(self, proof: Destroyed) -> None:
        if proof.exit is not None:
            self._exits.setdefault(proof.kernel_id, proof.exit)
        if proof.usage is not None:
            self._usage[proof.kernel_id] = proof.usage

    async def _requeue(self, failure: _TryElsewhere, fenced: list[str]) -> None:
        """PENDING again. A lost node's containers are stopped by its own fence before another node may start."""
        wait_s = max((lost.fenced_at for lost in self._lost.values()), default=0.0) - workflow.time()
        if wait_s > 0:
            await workflow.sleep(wait_s)
        self._attempt = await workflow.execute_local_activity_method(
            SessionActivities.requeue_session,
            Requeue(
                self._session.session_id,
                self._attempt,
                failure.reason,
                failure.message,
                failure.avoid,
                fenced,
                list(self._usage.values()),
            ),
            start_to_close_timeout=options.DATABASE_TIMEOUT,
            retry_policy=options.DATABASE_RETRY,
            summary=Shown(f"requeue: {failure.reason}"),
        )
        # The scheduler can't have assigned the new attempt before the row was PENDING; what arrived since then is kept.
        if self._assignment is not None and self._assignment.attempt < self._attempt:
            self._assignment = None
        self._lost.clear()
        self._exits.clear()
        self._usage.clear()
        self._preempt = None
        if workflow.info().is_continue_as_new_suggested() and self._assignment is None and self._cancel is None:
            workflow.continue_as_new(
                replace(
                    self._session, attempt=self._attempt, failures=self._failures, first_failure=self._first_failure
                )
            )

    async def _finish(self, ending: Ending, fenced: Sequence[str] = ()) -> str:
        """The row is terminal and what it held is released. From here nothing of the session is left."""
        exit = self._first_exit()
        if ending.exit_code is None and exit is not None:
            ending = replace(ending, exit_code=exit.exit_code)
        actor = self._cancel.actor if self._cancel is not None and ending.reason == self._cancel.reason else "workflow"
        status: str = await workflow.execute_local_activity_method(
            SessionActivities.finish_session,
            Finish(self._session.session_id, ending, actor, list(fenced), list(self._usage.values())),
            start_to_close_timeout=options.DATABASE_TIMEOUT,
            retry_policy=options.DATABASE_RETRY,
            summary=Shown(f"record {ending.status}: {ending.reason}"),
        )
        workflow.upsert_search_attributes([names.STATUS.value_set(status)])
        # The reason alone: a runtime's words may quote the command.
        self._show(_S(status), ending.reason)
        return status

    async def _end_what_is_left(self) -> str:
        """In place of a workflow that was terminated from outside: removes its containers and ends the row."""
        state = await workflow.execute_local_activity_method(
            SessionActivities.session_state,
            self._session.session_id,
            start_to_close_timeout=options.DATABASE_TIMEOUT,
            retry_policy=options.DATABASE_RETRY,
        )
        self._attempt = state.attempt
        fenced: list[str] = []
        if state.kernels:
            self._assignment = Assignment(state.attempt, state.kernels)
            fenced = await self._remove_containers(grace_s=self._session.grace_s)
        message = "its workflow was terminated from outside"
        return await self._finish(Ending(_S.ERROR, Reason.CANCELLED_BY_ADMIN, message, SessionResult.FAILURE), fenced)

    @property
    def _kernels(self) -> list[KernelSpec]:
        return self._assignment.kernels if self._assignment is not None else []

    def _is_current(self, exit: KernelExit) -> bool:
        return any(exit.kernel_id == one.kernel_id and exit.attempt == one.attempt for one in self._kernels)

    def _first_exit(self) -> KernelExit | None:
        """The main kernel's, if it has ended; else that of the one that ended first."""
        first = next(iter(self._exits.values()), None)
        return self._exits.get(self._kernels[0].kernel_id, first) if self._kernels else first

    def _interrupted(self) -> bool:
        return self._cancel is not None or bool(self._lost) or self._preempt is not None

    def _interruption(self) -> Ending:
        """The ending that a wish, a loss or a preemption means; raises _TryElsewhere if it goes on elsewhere."""
        if self._cancel is not None:
            return self._cancelled(_S.TERMINATED)
        if self._lost:
            lost = next(iter(self._lost.values()))
            if self._session.on_node_loss == NodeLossPolicy.REQUEUE:
                self._first_failure = self._first_failure or lost.message
                raise _TryElsewhere(Reason.NODE_LOST, lost.message, avoid=lost.agent_id)
            return Ending(_S.ERROR, Reason.NODE_LOST, lost.message, SessionResult.FAILURE)
        assert self._preempt is not None
        if self._preempt.requeue:
            raise _TryElsewhere(Reason.PREEMPTED, self._preempt.message)
        return Ending(_S.TERMINATED, Reason.PREEMPTED, self._preempt.message, SessionResult.FAILURE)

    def _cancelled(self, status: SessionStatus) -> Ending:
        assert self._cancel is not None
        return Ending(status, self._cancel.reason, self._cancel.message or f"by {self._cancel.actor}")

    def _forced(self) -> bool:
        return self._cancel is not None and self._cancel.forced

    def _move(self, to: SessionStatus, *, reason: str = "", message: str = "") -> Move:
        return Move(self._session.session_id, self._attempt, to, message, reason)

    async def _local(self, step: Callable[[Any, _Order], Awaitable[bool]], order: _Order, summary: str) -> None:
        await workflow.execute_local_activity_method(
            step,
            order,
            start_to_close_timeout=options.DATABASE_TIMEOUT,
            retry_policy=options.DATABASE_RETRY,
            summary=Shown(summary),
        )

    def _show(self, status: SessionStatus, words: str) -> None:
        self._status = str(status)
        workflow.set_current_details(f"**{status}** (attempt {self._attempt}): {words}")


def _drop(*work: asyncio.Future[Any]) -> None:
    """Cancelled, and nobody waits for how it ends: destroying the kernels finds whatever it did."""
    for one in work:
        one.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        one.cancel()


def _type_of(error: ActivityError) -> str:
    return error.cause.type or "" if isinstance(error.cause, ApplicationError) else ""
