"""The life of a session, from the queue to the proof that nothing of it is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from temporalio import workflow
from temporalio.exceptions import ActivityError

from moorage.contracts import activities as contract
from moorage.contracts import names
from moorage.contracts.activities import (
    Again,
    Answer,
    Assignment,
    Cancel,
    Commit,
    Extend,
    Finish,
    HealthChange,
    IdleReport,
    Move,
    NodeLost,
    Note,
    Preempt,
    Prolong,
    Requeue,
    ReserveResize,
    Resize,
    Restart,
    SessionActivities,
    SessionInput,
    SettleResize,
    Started,
)
from moorage.domain.health import Health
from moorage.domain.resources import format_slots
from moorage.domain.session import (
    Ending,
    KernelExit,
    NodeLossPolicy,
    Reason,
    SessionResult,
    SessionStatus,
    ending_of,
)
from workflows import steps
from workflows.asked import Asked, Questions
from workflows.containers import Containers, NoNodeHelps, TryElsewhere
from workflows.idleness import Idleness
from workflows.restarts import Restarts
from workflows.told import Told

_S = SessionStatus
_SHOWN = {_S.TERMINATING: "stops", _S.RESTARTING: "starts again"}
_ENDED = Answer(False, "session-ended", "the session ended before it was done")


@workflow.defn(name="SessionWorkflow")
class SessionWorkflow:
    """One session. Handlers only note what was said; `run` alone acts, so nothing interleaves with it."""

    @workflow.init
    def __init__(self, session: SessionInput) -> None:
        self._session = session
        self._attempt = session.attempt
        self._failures = session.failures
        assignment = Assignment(session.attempt, session.kernels) if session.kernels else None
        self._told = Told(assignment)
        self._containers = Containers(self._told, self._record_creation)
        self._first_failure = session.first_failure
        self._status = str(_S.PENDING)
        self._asked = Questions()
        self._idleness = Idleness()
        self._lifetime_s = session.lifetime_s
        self._kept_until = session.kept_until  # seconds since 1970; idleness is no end before
        self._running_since = session.running_since
        self._started_at = 0.0  # of the containers that run now
        self._restarts = Restarts(session.restart_policy, session.max_restarts, so_far=session.restarts)

    @workflow.signal
    def assigned(self, assignment: Assignment) -> None:
        if self._told.place(assignment, attempt=self._attempt):
            self._attempt = assignment.attempt

    @workflow.signal
    def cancel(self, cancel: Cancel) -> None:
        self._told.cancel(cancel)

    @workflow.signal
    def kernel_exited(self, exit: KernelExit) -> None:
        self._told.exit(exit)

    @workflow.signal
    def node_lost(self, lost: NodeLost) -> None:
        self._told.lose(lost)

    @workflow.signal
    def preempt(self, preempt: Preempt) -> None:
        self._told.preempt(preempt)

    @workflow.signal
    def health_changed(self, change: HealthChange) -> None:
        self._told.hear(change)

    @workflow.signal
    def idle_reported(self, report: IdleReport) -> None:
        self._told.hear(report)

    @workflow.update
    async def restart(self, wish: Restart) -> Answer:
        return await self._ask(wish)

    @workflow.update
    async def resize(self, wish: Resize) -> Answer:
        return await self._ask(wish)

    @workflow.update
    async def extend(self, wish: Extend) -> Answer:
        return await self._ask(wish)

    @workflow.update
    async def commit(self, wish: Commit) -> Answer:
        """Beside `run`, since it takes minutes and changes nothing that `run` looks at; the end doesn't wait for it."""
        if self._status != _S.RUNNING:
            return self._not_running()
        making = steps.start_commit(self._told.kernels[0], wish.image)
        attempt = self._attempt
        await workflow.wait_condition(
            lambda: making.done() or self._told.interrupted() or bool(self._told.exits) or self._attempt != attempt
        )
        if not making.done():
            steps.drop(making)
            return replace(_ENDED, message="the container ended before its image was made")
        try:
            made = await making
        except ActivityError as error:
            return Answer(False, contract.COMMIT_REFUSED, steps.words_of(error))
        agent = self._told.kernels[0].agent_id
        return Answer(True, data={"image": made.image, "id": made.image_id, "bytes": made.bytes, "agent": agent})

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
            except TryElsewhere as failure:
                fenced = await self._make_room(failure)
                ended = self._ending_instead_of(failure)
                if ended is None:
                    await self._requeue(failure, fenced)
                    continue
                ending = ended
            return await self._finish(ending, fenced)

    def _ending_instead_of(self, failure: TryElsewhere) -> Ending | None:
        """The ending, if the session was stopped meanwhile or has failed to start too often; else it is requeued."""
        if self._told.stop is not None:
            return self._told.cancelled(_S.TERMINATED)
        if failure.reason in (Reason.FAILED_TO_CREATE, Reason.NODE_LOST):
            self._first_failure = self._first_failure or failure.message
        self._failures += failure.reason is Reason.FAILED_TO_CREATE
        if self._failures >= self._session.max_attempts:
            return Ending(_S.ERROR, failure.reason, self._first_failure, SessionResult.FAILURE)
        return None

    async def _wait_for_a_node(self) -> Ending | None:
        """None once assigned. A cancel that crosses a placement is settled by the row lock in `finish_session`."""
        timeout = self._session.pending_timeout_s or None
        try:
            await workflow.wait_condition(
                lambda: self._told.stop is not None or self._told.assignment is not None, timeout=timeout
            )
        except TimeoutError:
            message = f"no node had room within {self._session.pending_timeout_s:g} s"
            return Ending(_S.CANCELLED, Reason.PENDING_TIMEOUT, message)
        return self._told.cancelled(_S.CANCELLED) if self._told.stop is not None else None

    async def _live(self) -> Ending:
        """Creates the kernels and waits for the end. Undone by `_clean_up` or, on failure, `_make_room`."""
        ending = await self._start(_S.CREATING)
        while ending is None:
            ending = await self._wait_for_the_end()
            if ending is None:
                ending = await self._attend()
            if ending is not None and not self._told.interrupted() and self._restarts.follow(ending):
                ending = await self._start_again(ending)
        return ending

    async def _start(self, shown: SessionStatus) -> Ending | None:
        """RUNNING with all kernels, or the ending that came first."""
        self._show(shown, "its containers are made")
        try:
            created = await self._containers.make()
        except NoNodeHelps as end:
            return end.ending
        if created is None:
            return self._interruption()
        nodes = ", ".join(sorted({kernel.agent_id for kernel in self._told.kernels}))
        await steps.local(
            SessionActivities.record_started,
            Started(self._session.session_id, self._attempt, created, self._told.kernels[0].agent_id, f"on {nodes}"),
            "record RUNNING",
        )
        self._show(_S.RUNNING, f"runs on {nodes}")
        self._started_at = workflow.time()
        self._running_since = self._running_since or self._started_at
        for kernel in created:
            if kernel.exit is not None:
                self._told.exits.setdefault(kernel.kernel_id, kernel.exit)
        if not self._told.exits and shown is _S.CREATING:
            workflow.upsert_search_attributes(
                [names.STATUS.value_set(_S.RUNNING), names.AGENT.value_set(self._told.kernels[0].agent_id)]
            )
        return None

    async def _wait_for_the_end(self) -> Ending | None:
        """A container's exit, a wish to stop, a loss or a deadline, whichever is first. None: somebody wants a word."""
        limit_s, reason = self._limit()
        left_s = max(0.0, self._running_since + limit_s - workflow.time()) if limit_s else None
        kept_s = max(0.0, self._kept_until - workflow.time()) if self._idleness.end() else None
        waits = [seconds for seconds in (left_s, kept_s) if seconds is not None]
        try:
            await workflow.wait_condition(
                lambda: self._told.wants_attention() or bool(self._asked),
                timeout=min(waits, default=None),
            )
        except TimeoutError:
            if left_s is None or (kept_s is not None and kept_s < left_s):
                return Ending(_S.TERMINATED, Reason.IDLE_TIMEOUT, self._idleness.end())
            return Ending(_S.TERMINATED, reason, f"ran for {limit_s:g} s, its limit", SessionResult.FAILURE)
        exit = self._told.first_exit()
        if exit is not None:
            return ending_of(exit, self._told.mem_limit(exit.kernel_id))
        return self._interruption() if self._told.interrupted() else None

    def _interruption(self) -> Ending:
        """The ending that a wish, a loss or a preemption means; raises TryElsewhere if it goes on elsewhere."""
        told = self._told
        if told.stop is not None:
            return told.cancelled(_S.TERMINATED)
        if told.lost:
            lost = next(iter(told.lost.values()))
            if self._session.on_node_loss == NodeLossPolicy.REQUEUE:
                raise TryElsewhere(Reason.NODE_LOST, lost.message, avoid=lost.agent_id)
            return Ending(_S.ERROR, Reason.NODE_LOST, lost.message, SessionResult.FAILURE)
        assert told.preemption is not None
        if told.preemption.requeue:
            raise TryElsewhere(Reason.PREEMPTED, told.preemption.message)
        return Ending(_S.TERMINATED, Reason.PREEMPTED, told.preemption.message, SessionResult.FAILURE)

    def _limit(self) -> tuple[float, Reason]:
        """How long it may run, in seconds from its first start on (0: for ever), and what its end is then called."""
        limits = ((self._lifetime_s, Reason.LIFETIME_EXCEEDED), (self._session.batch_timeout_s, Reason.BATCH_TIMEOUT))
        return min((one for one in limits if one[0]), default=(0.0, Reason.NONE), key=lambda limit: limit[0])

    async def _attend(self) -> Ending | None:
        """Takes one word of the nodes, or one wish. Returns the ending, if that is one."""
        if self._told.news:
            return await self._hear(self._told.news.popleft())
        return await self._do(self._asked.next())

    async def _hear(self, news: HealthChange | IdleReport) -> Ending | None:
        if not self._told.is_current(news):
            return None  # of a container that was replaced since
        if isinstance(news, IdleReport):
            line = self._idleness.hear(news, kernels=len(self._told.kernels))
            if line:
                await self._note(Reason.IDLE_WARNING, line, news.at)
            return None
        await self._note(Reason.HEALTH, news.message, news.at, kernel_id=news.kernel_id, health=news.health)
        if news.health != Health.UNHEALTHY:
            return None
        return Ending(_S.ERROR, Reason.UNHEALTHY, news.message, SessionResult.FAILURE)

    async def _note(self, reason: Reason, message: str, at: float, *, kernel_id: str = "", health: str = "") -> None:
        line = Note(
            self._session.session_id,
            self._attempt,
            reason,
            message,
            at=at or workflow.time(),
            kernel_id=kernel_id,
            health=health,
        )
        await steps.local(SessionActivities.note_session, line, f"note: {reason}")

    async def _do(self, asked: Asked) -> Ending | None:
        """What was asked is done or refused, and answered in any case."""
        answer = _ENDED
        try:
            if isinstance(asked.wish, Extend):
                answer = await self._prolong(asked.wish)
                return None
            if isinstance(asked.wish, Restart):
                ending = await self._restart_as_asked(asked.wish)
                answer = _ENDED if ending is not None else Answer(True, data={"attempt": self._attempt})
                return ending
            answer, ending = await self._resize(asked.wish)
            return ending
        except TryElsewhere as failure:
            moved = failure.reason is Reason.RESIZED
            answer = Answer(moved, "" if moved else "session-requeued", failure.message, {"moved": moved})
            raise
        finally:
            asked.answer = answer

    async def _prolong(self, wish: Extend) -> Answer:
        now = workflow.time()
        if self._lifetime_s:
            longer = self._lifetime_s + wish.seconds
            self._lifetime_s = max(self._lifetime_s, min(longer, wish.most_s or longer))
        self._kept_until = max(now, self._kept_until) + wish.seconds
        order = Prolong(
            self._session.session_id,
            self._attempt,
            self._lifetime_s,
            self._kept_until,
            f"{wish.seconds:g} s longer, by {wish.actor}",
            wish.actor,
            at=now,
        )
        await steps.local(SessionActivities.prolong_session, order, "record a longer life")
        return Answer(True, data={"lifetime_s": self._lifetime_s, "kept_until": self._kept_until})

    async def _restart_as_asked(self, wish: Restart) -> Ending | None:
        await self._record(_S.RESTARTING, Reason.RESTARTED, f"by {wish.actor}")
        self._restarts.begin_anew()
        return await self._start_in_place(grace_s=self._session.grace_s)

    async def _start_again(self, fall: Ending) -> Ending | None:
        """As the restart policy says, after a while in which nothing of it is left but what it holds."""
        following = self._restarts.next(fall, ran_s=workflow.time() - self._started_at)
        if isinstance(following, Ending):
            return following
        await self._record(_S.RESTARTING, fall.reason, following.words)
        await self._containers.remove(grace_s=self._session.grace_s if fall.reason == Reason.UNHEALTHY else 0)
        try:
            await workflow.wait_condition(self._told.interrupted, timeout=following.wait_s)
        except TimeoutError:
            return await self._start_in_place(grace_s=0)
        return self._interruption()

    async def _start_in_place(self, *, grace_s: float, slots: dict[str, int] | None = None) -> Ending | None:
        """New containers where the old ones were, with what they held and the next attempt. None: they run."""
        await self._containers.remove(grace_s=grace_s)
        if self._told.interrupted():
            return self._interruption()
        order = Again(self._session.session_id, self._attempt, slots or {}, self._containers.usage)
        placed = await steps.local(SessionActivities.place_again, order, "place it again where it is")
        if not placed.kernels:
            return Ending(_S.ERROR, Reason.FAILED_TO_CREATE, "its place is gone", SessionResult.FAILURE)
        self._told.assignment, self._attempt = placed, placed.attempt
        self._forget_containers()
        if workflow.info().is_continue_as_new_suggested() and self._told.stop is None and not self._told.interrupted():
            await self._asked.dismiss(Answer(False, "session-not-running", "the session is RESTARTING; ask again"))
            workflow.continue_as_new(replace(self._as_now(), kernels=placed.kernels))
        return await self._start(_S(self._status))

    def _forget_containers(self) -> None:
        self._told.forget_containers()
        self._containers.forget()
        self._idleness.clear()

    def _as_now(self) -> SessionInput:
        """What the next run of this life begins with."""
        return replace(
            self._session,
            attempt=self._attempt,
            failures=self._failures,
            first_failure=self._first_failure,
            lifetime_s=self._lifetime_s,
            kept_until=self._kept_until,
            running_since=self._running_since,
            restarts=self._restarts.in_a_row,
            kernels=[],
        )

    async def _resize(self, wish: Resize) -> tuple[Answer, Ending | None]:
        """What grows is held before the container grows, what shrinks is held until it has. Undone when one refuses."""
        order = ReserveResize(self._session.session_id, self._attempt, wish.slots, wish.actor, wish.move)
        reserved = await steps.local(SessionActivities.reserve_resize, order, "hold what it grows by")
        if reserved.refused is not None:
            return reserved.refused, None
        words = f"{format_slots(wish.slots)} for each kernel, by {wish.actor}"
        if reserved.elsewhere:
            raise TryElsewhere(Reason.RESIZED, f"{words}; its node has no room", slots=wish.slots)
        self._show(_S.RESIZING, "its limits are changed")
        done = Answer(True, data={"slots": dict(wish.slots), "restarted": reserved.restart})
        if reserved.restart:
            ending = await self._start_in_place(grace_s=self._session.grace_s, slots=wish.slots)
            return (done, None) if ending is None else (_ENDED, ending)
        refusal, is_consistent = await self._containers.change(wish.slots, back_to=reserved.before)
        if self._told.interrupted():
            return _ENDED, self._interruption()
        if not refusal:
            await self._settle(wish.slots, Reason.RESIZED, words, wish.actor)
            return done, None
        refused = Answer(False, contract.UPDATE_REFUSED, refusal)
        if is_consistent:
            await self._settle(reserved.before, Reason.RESIZE_REFUSED, refusal, wish.actor)
            return refused, None
        # One has grown into its new limits and another refuses them: only new containers have the old ones again.
        return refused, await self._start_in_place(grace_s=self._session.grace_s, slots=reserved.before)

    async def _settle(self, slots: dict[str, int], reason: Reason, message: str, actor: str) -> None:
        order = SettleResize(self._session.session_id, self._attempt, slots, reason, message, actor)
        await steps.local(SessionActivities.settle_resize, order, f"record {reason}")
        self._told.resized(slots)
        self._show(_S.RUNNING, f"runs with {format_slots(slots)}")

    async def _clean_up(self, ending: Ending) -> list[str]:
        """The containers are gone. Returns the lost nodes, where they are fenced instead."""
        if not self._told.lost and (not self._told.exits or len(self._told.kernels) > 1):
            await self._record(_S.TERMINATING, ending.reason, ending.message)
        return await self._containers.remove(grace_s=self._session.grace_s)

    async def _make_room(self, failure: TryElsewhere) -> list[str]:
        """As `_clean_up`, after an attempt that is not the last: what did not fail has its grace period."""
        if failure.reason not in (Reason.PREEMPTED, Reason.RESIZED):
            return await self._containers.remove(grace_s=0)
        await self._record(_S.TERMINATING, failure.reason, failure.message)
        return await self._containers.remove(grace_s=self._session.grace_s)

    async def _record(self, status: SessionStatus, reason: str, message: str) -> None:
        self._show(status, f"{_SHOWN[status]}: {reason}")
        await steps.local(
            SessionActivities.move_session,
            self._move(status, reason=reason, message=message),
            f"record {status}",
        )

    async def _record_creation(self, status: SessionStatus, words: str) -> None:
        """Not shown in a restart, which is one status from its beginning to its end."""
        if self._status in (_S.RESTARTING, _S.RESIZING):
            return
        await steps.local(SessionActivities.move_session, self._move(status), f"record {status}")
        self._show(status, words)

    async def _requeue(self, failure: TryElsewhere, fenced: list[str]) -> None:
        """PENDING again. A lost node's containers are stopped by its own fence before another node may start."""
        wait_s = max((lost.fenced_at for lost in self._told.lost.values()), default=0.0) - workflow.time()
        if wait_s > 0:
            await workflow.sleep(wait_s)
        self._attempt = await steps.local(
            SessionActivities.requeue_session,
            Requeue(
                self._session.session_id,
                self._attempt,
                failure.reason,
                failure.message,
                failure.avoid,
                fenced,
                self._containers.usage,
                failure.slots,
            ),
            f"requeue: {failure.reason}",
        )
        # The scheduler can't have assigned the new attempt before the row was PENDING; what arrived since then is kept.
        if self._told.assignment is not None and self._told.assignment.attempt < self._attempt:
            self._told.assignment = None
        self._told.lost.clear()
        self._forget_containers()
        self._told.preemption = None
        self._running_since = 0.0
        self._restarts.begin_anew()
        self._show(_S.PENDING, "waits for a node")
        await self._asked.dismiss(self._not_running())
        if workflow.info().is_continue_as_new_suggested() and self._told.assignment is None and self._told.stop is None:
            workflow.continue_as_new(self._as_now())

    async def _finish(self, ending: Ending, fenced: Sequence[str] = ()) -> str:
        """The row is terminal and what it held is released. From here nothing of the session is left."""
        exit = self._told.first_exit()
        if ending.exit_code is None and exit is not None:
            ending = replace(ending, exit_code=exit.exit_code)
        actor = (
            self._told.stop.actor
            if self._told.stop is not None and ending.reason == self._told.stop.reason
            else "workflow"
        )
        last_lines = self._containers.last_lines if ending.result == SessionResult.FAILURE else ""
        status = await steps.local(
            SessionActivities.finish_session,
            Finish(self._session.session_id, ending, actor, list(fenced), self._containers.usage, last_lines),
            f"record {ending.status}: {ending.reason}",
        )
        workflow.upsert_search_attributes([names.STATUS.value_set(status)])
        # The reason alone: a runtime's words may quote the command.
        self._show(_S(status), ending.reason)
        await self._asked.dismiss(_ENDED)
        return status

    async def _end_what_is_left(self) -> str:
        """In place of a workflow that was terminated from outside: removes its containers and ends the row."""
        state = await steps.local(SessionActivities.session_state, self._session.session_id, "look what is left")
        self._attempt = state.attempt
        fenced: list[str] = []
        if state.kernels:
            self._told.assignment = Assignment(state.attempt, state.kernels)
            fenced = await self._containers.remove(grace_s=self._session.grace_s)
        message = "its workflow was terminated from outside"
        return await self._finish(Ending(_S.ERROR, Reason.CANCELLED_BY_ADMIN, message, SessionResult.FAILURE), fenced)

    async def _ask(self, wish: Restart | Resize | Extend) -> Answer:
        return await self._asked.ask(wish) if self._status == _S.RUNNING else self._not_running()

    def _not_running(self) -> Answer:
        return Answer(False, "session-not-running", f"the session is {self._status}; this needs RUNNING")

    def _move(self, to: SessionStatus, *, reason: str = "", message: str = "") -> Move:
        return Move(self._session.session_id, self._attempt, to, message, reason)

    def _show(self, status: SessionStatus, words: str) -> None:
        self._status = str(status)
        workflow.set_current_details(f"**{status}** (attempt {self._attempt}): {words}")
