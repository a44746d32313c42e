"""A session, its statuses and the moves between them. One owner for every name that clients see."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from enum import StrEnum

from moorage.domain.health import HealthCheck
from moorage.domain.idle import IdlePolicy
from moorage.domain.network import KernelNetwork
from moorage.domain.resources import MEM, format_slot


class SessionStatus(StrEnum):
    PENDING = "PENDING"
    SCHEDULED = "SCHEDULED"
    PREPARING = "PREPARING"
    CREATING = "CREATING"
    RUNNING = "RUNNING"
    RESTARTING = "RESTARTING"
    RESIZING = "RESIZING"
    TERMINATING = "TERMINATING"
    TERMINATED = "TERMINATED"
    CANCELLED = "CANCELLED"
    ERROR = "ERROR"


# What a container runs that has nothing to do but be there.
IDLE = ("tail", "-f", "/dev/null")

_S = SessionStatus
TERMINAL = frozenset({_S.TERMINATED, _S.CANCELLED, _S.ERROR})
HOLDS_RESOURCES = frozenset(
    {_S.SCHEDULED, _S.PREPARING, _S.CREATING, _S.RUNNING, _S.RESTARTING, _S.RESIZING, _S.TERMINATING}
)
# Each status with those that may follow it. A requeue leads back to PENDING; terminal statuses have no way out.
MOVES: dict[SessionStatus, frozenset[SessionStatus]] = {
    _S.PENDING: frozenset({_S.SCHEDULED, _S.CANCELLED, _S.ERROR}),
    _S.SCHEDULED: frozenset({_S.PREPARING, _S.CREATING, _S.TERMINATING, _S.PENDING, _S.CANCELLED, _S.ERROR}),
    _S.PREPARING: frozenset({_S.CREATING, _S.TERMINATING, _S.PENDING, _S.ERROR}),
    _S.CREATING: frozenset({_S.PREPARING, _S.RUNNING, _S.TERMINATING, _S.PENDING, _S.ERROR}),
    _S.RUNNING: frozenset({_S.RESTARTING, _S.RESIZING, _S.TERMINATING, _S.PENDING, _S.ERROR}),
    _S.RESTARTING: frozenset({_S.RUNNING, _S.TERMINATING, _S.PENDING, _S.ERROR}),
    _S.RESIZING: frozenset({_S.RUNNING, _S.TERMINATING, _S.PENDING, _S.ERROR}),
    _S.TERMINATING: frozenset({_S.TERMINATED, _S.CANCELLED, _S.PENDING, _S.ERROR}),
    _S.TERMINATED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.ERROR: frozenset(),
}


class SessionType(StrEnum):
    INTERACTIVE = "interactive"
    BATCH = "batch"


class SessionResult(StrEnum):
    UNDEFINED = "UNDEFINED"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


class NodeLossPolicy(StrEnum):
    """What becomes of a session whose node is lost: it ends, or it waits for another node."""

    FAIL = "fail"
    REQUEUE = "requeue"


class RestartPolicy(StrEnum):
    """What becomes of a session whose container has ended by itself: it ends too, or starts again in its place."""

    NEVER = "never"
    ON_FAILURE = "on-failure"  # an exit code other than 0, a kill for memory, or a failed liveness probe
    ALWAYS = "always"


class DependencyPolicy(StrEnum):
    """What becomes of a session when one that it waits for fails: it is cancelled, or runs all the same."""

    CANCEL = "cancel"
    RUN = "run"


class Reason(StrEnum):
    """Why a session moved. The first reason of an end is kept for ever."""

    NONE = ""
    USER_REQUESTED = "user-requested"
    FORCE_TERMINATED = "force-terminated"
    SELF_TERMINATED = "self-terminated"
    OOM_KILLED = "oom-killed"
    DISK_EXCEEDED = "disk-exceeded"
    SIGNALLED = "signalled"
    IDLE_TIMEOUT = "idle-timeout"
    LIFETIME_EXCEEDED = "lifetime-exceeded"
    BATCH_TIMEOUT = "batch-timeout"
    PENDING_TIMEOUT = "pending-timeout"
    IMAGE_PULL_FAILED = "image-pull-failed"
    FAILED_TO_CREATE = "failed-to-create"
    NODE_LOST = "node-lost"
    PREEMPTED = "preempted"
    DEPENDENCY_FAILED = "dependency-failed"
    QUOTA_EXCEEDED = "quota-exceeded"
    UNSATISFIABLE = "unsatisfiable"
    CANCELLED_BY_ADMIN = "cancelled-by-admin"
    UNHEALTHY = "unhealthy"  # a probe failed too often
    CRASH_LOOP = "crash-loop"  # it ended again and again, and is not started once more
    RESTARTED = "restarted"
    RESIZED = "resized"
    RESIZE_REFUSED = "resize-refused"
    # No moves: the status stays.
    DEVICE_HEALTH = "device-health"
    HEALTH = "health"
    IDLE_WARNING = "idle-warning"
    EXTENDED = "extended"


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """One container of a session, as the node must make it. `attempt` tells it from earlier tries."""

    session_id: str
    kernel_id: str
    attempt: int
    agent_id: str
    image: str
    command: list[str]
    env: dict[str, str] = field(repr=False)
    slots: dict[str, int]
    session_name: str = ""
    hostname: str = "main1"
    on_node_loss: str = NodeLossPolicy.FAIL
    pids_limit: int = 1024
    role: str = "main"
    index: int = 1  # within its role
    cluster: list[str] = field(default_factory=list)  # host names of all kernels of a gang, main first
    devices: dict[str, int] = field(default_factory=dict)  # device id → amount
    files: dict[str, str] = field(default_factory=dict, repr=False)  # path → content in base64, for its user alone
    health: HealthCheck | None = None
    idle: IdlePolicy | None = None
    network: KernelNetwork | None = None  # None: open, and alone


@dataclass(frozen=True, slots=True)
class KernelExit:
    """How a container ended, as the node saw it. `gone` means that it vanished and left no exit code."""

    kernel_id: str
    attempt: int
    exit_code: int | None
    oom_killed: bool = False
    gone: bool = False
    at: float = 0.0  # seconds since 1970, the node's clock
    over_disk: str = ""  # killed by its node for what it wrote to its disk: in words with numbers


@dataclass(frozen=True, slots=True)
class Ending:
    """Why and with what a session ended; `status` is one of the terminal ones."""

    status: str
    reason: str
    message: str = ""
    result: str = SessionResult.UNDEFINED
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of a session's life. `at` in seconds since 1970."""

    seq: int
    from_status: str | None
    to_status: str
    at: float
    actor: str
    reason: str = ""
    message: str = ""
    attempt: int = 0
    data: dict[str, str] = field(default_factory=dict)


def ending_of(exit: KernelExit, mem_limit: int | None = None) -> Ending:
    """The ending that a container's own exit means. Docker reports death by signal n as exit code 128 + n.

    `mem_limit` is what it was allowed, in bytes.
    """
    code = exit.exit_code
    if exit.gone or code is None:
        return Ending(_S.ERROR, Reason.FAILED_TO_CREATE, "the container vanished from its node", SessionResult.FAILURE)
    if exit.over_disk:
        return Ending(_S.TERMINATED, Reason.DISK_EXCEEDED, exit.over_disk, SessionResult.FAILURE, code)
    if code == 0:
        # Docker's mark for memory stays for good, even if the session has got over it.
        words = f"exit code 0; a process of it was {_out_of_memory(mem_limit)}" if exit.oom_killed else "exit code 0"
        return Ending(_S.TERMINATED, Reason.SELF_TERMINATED, words, SessionResult.SUCCESS, code)
    return Ending(_S.TERMINATED, *_failed(exit, code, mem_limit), SessionResult.FAILURE, code)


def _failed(exit: KernelExit, code: int, mem_limit: int | None) -> tuple[Reason, str]:
    if exit.oom_killed:
        if code == _KILLED:
            return Reason.OOM_KILLED, _out_of_memory(mem_limit)
        return Reason.OOM_KILLED, f"exit code {code}, after a process of it was {_out_of_memory(mem_limit)}"
    if code == _KILLED:
        return Reason.SIGNALLED, "killed (SIGKILL), not for memory: from outside, or by a process of its own"
    if 128 < code < 160:
        return Reason.SIGNALLED, f"ended by {_signal(code - 128)}"
    return Reason.SELF_TERMINATED, f"exit code {code}{_MEANS.get(code, '')}"


def _out_of_memory(limit: int | None) -> str:
    if limit is None:
        return "killed for memory: it needed more than its limit"
    return f"killed for memory: it used {format_slot(MEM, limit)}, its limit, and needed more"


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


_KILLED = 128 + signal.SIGKILL
# By the shells' custom, which Docker and its init keep.
_MEANS = {126: ": its command can't be executed", 127: ": its command was not found"}
