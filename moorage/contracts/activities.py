"""What activities promise. Workflows call these abstract methods; control workers, agents and fakes implement them.

Every activity is idempotent: its key stands in its docstring, and doing it twice is the same as doing it once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from temporalio import activity

from moorage.domain.node import AgentInfo, ContainerSeen, Device
from moorage.domain.pulls import NodeImage
from moorage.domain.session import Ending, KernelExit, KernelSpec, NodeLossPolicy, RestartPolicy
from moorage.domain.usage import KernelUsage

# Types of ApplicationError that a workflow tells apart.
IMAGE_MISSING = "image-missing"  # the node lacks the image: pull it, then create again
IMAGE_PULL_FAILED = "image-pull-failed"  # no node can help: the registry refuses or the image does not exist
CREATE_REFUSED = "create-refused"  # the runtime refused this container; another node may take it
KERNEL_STOPPED = "kernel-stopped"  # this attempt was destroyed before it could start
UPDATE_REFUSED = "update-refused"  # the container can't have these limits; nothing of it was changed
COMMIT_REFUSED = "commit-refused"  # no image could be made of the container


@dataclass(frozen=True, slots=True)
class SessionInput:
    """What a session's workflow starts with: who and how long, no secrets. Deadlines in seconds, 0 means none."""

    session_id: str
    name: str
    user: str
    project: str
    resource_group: str
    image: str = ""
    on_node_loss: str = NodeLossPolicy.FAIL
    pending_timeout_s: float = 0.0
    lifetime_s: float = 0.0
    batch_timeout_s: float = 0.0
    grace_s: float = 10.0
    max_attempts: int = 3
    attempt: int = 0
    failures: int = 0  # attempts that could not be created
    first_failure: str = ""
    recovered: bool = False  # started by the reaper in place of a workflow that was killed: end what is left
    restart_policy: str = RestartPolicy.NEVER
    max_restarts: int = 5  # in a row; one that ran for long enough begins a new row
    restarts: int = 0
    kernels: list[KernelSpec] = field(default_factory=list)  # placed already: a long life goes on in a new run
    running_since: float = 0.0  # of that long life, in seconds since 1970; its limits count from here
    kept_until: float = 0.0  # seconds since 1970; idleness is no end before


@dataclass(frozen=True, slots=True)
class Assignment:
    """Signal `assigned`: where each kernel of this attempt runs."""

    attempt: int
    kernels: list[KernelSpec]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Signal `cancel`. `forced` leaves no grace period."""

    reason: str
    actor: str
    forced: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True)
class NodeLost:
    """Signal `node_lost`. The node's own fence has stopped requeue sessions by `fenced_at` (seconds since 1970)."""

    agent_id: str
    message: str
    fenced_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Preempt:
    """Signal `preempt`: this attempt gives its room up. `requeue` puts the session back into the queue."""

    attempt: int
    requeue: bool
    message: str


@dataclass(frozen=True, slots=True)
class HealthChange:
    """Signal `health_changed`: what a container's probes found, in words."""

    kernel_id: str
    attempt: int
    health: str  # a moorage.domain.health.Health
    message: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class IdleReport:
    """Signal `idle_reported`: a container is idle, in words with numbers, or is used again. Once for each change.

    The workflow remembers it, for as long as the session is extended. A node that counts anew says so with ACTIVE.
    """

    kernel_id: str
    attempt: int
    stage: str  # a moorage.domain.idle.IdleStage
    message: str
    dry_run: bool = False
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Update `restart`: the containers are made anew in their places, with the next attempt."""

    actor: str


@dataclass(frozen=True, slots=True)
class Resize:
    """Update `resize`: each kernel gets these slots (all of them, in base units).

    `move` lets the session start anew on another node, where its own has no room.
    """

    slots: dict[str, int]
    actor: str
    move: bool = False


@dataclass(frozen=True, slots=True)
class Extend:
    """Update `extend`: the end of its lifetime is so much later, and it is not stopped for idleness before that.

    The lifetime grows to `most_s` at most (0: without limit).
    """

    seconds: float
    actor: str
    most_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Commit:
    """Update `commit`: an image is made of the main kernel's container, which goes on."""

    image: str
    actor: str


@dataclass(frozen=True, slots=True)
class Answer:
    """To an update: done, or why not (a code and words with numbers); a refusal has changed nothing."""

    done: bool
    code: str = ""
    message: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    hint: str = ""  # what to do next


@dataclass(frozen=True, slots=True)
class CreatedKernel:
    """A started container. `exit` is set when it had already ended by the time that it was looked at."""

    kernel_id: str
    attempt: int
    container_id: str
    exit: KernelExit | None = None
    create_ms: float = 0.0
    start_ms: float = 0.0
    image_id: str = ""  # what it runs, as the node has it
    image_digest: str = ""  # the same in its registry; empty if it came from none


@dataclass(frozen=True, slots=True)
class Destroy:
    """Order to remove a kernel's container, and every older attempt of it. `grace_s` 0 kills at once."""

    session_id: str
    kernel_id: str
    attempt: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class Destroyed:
    """Proof: after this no container of the kernel exists on the node."""

    kernel_id: str
    attempt: int
    existed: bool
    exit: KernelExit | None = None  # how the container ended, if it had existed
    log_bytes: int = 0
    usage: KernelUsage | None = None  # of its whole life, if the node saw it run
    last_lines: str = ""  # of its log, if it failed; without the secrets that it was given


class PullMode(StrEnum):
    """When the registry is asked: never, only for an image that the node lacks, or always, so that a tag is renewed."""

    LOOK = "look"
    MISSING = "missing"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class PullImage:
    """With the credentials of its registry, if there are any."""

    image: str
    mode: str = PullMode.MISSING
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image that is on the node now. Without a digest it came from no registry."""

    image_id: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class UpdateKernel:
    """Order to give a running container these limits."""

    session_id: str
    kernel_id: str
    attempt: int
    slots: dict[str, int]


@dataclass(frozen=True, slots=True)
class CommitKernel:
    """Order to make an image of a running container."""

    session_id: str
    kernel_id: str
    attempt: int
    image: str  # name and tag


@dataclass(frozen=True, slots=True)
class CommittedImage:
    image: str
    image_id: str
    bytes: int


class KernelActivities(ABC):
    """On the node's own queue: containers."""

    @activity.defn
    @abstractmethod
    async def create_kernel(self, spec: KernelSpec) -> CreatedKernel:
        """The container of (kernel, attempt) exists and was started. Key: kernel and attempt.

        An existing one is adopted, older attempts are removed. Fails for good with IMAGE_MISSING, CREATE_REFUSED or
        KERNEL_STOPPED.
        """

    @activity.defn
    @abstractmethod
    async def pull_image(self, order: PullImage) -> Pulled | None:
        """The image is on the node. Key: its name; orders for the same image share one pull. Heartbeats.

        Broken connections are tried again. Fails for good with IMAGE_PULL_FAILED and the registry's words, with
        CREATE_REFUSED where this node has no room for it, and with IMAGE_MISSING where it was only looked for.
        """

    @activity.defn
    @abstractmethod
    async def destroy_kernel(self, order: Destroy) -> Destroyed:
        """No container of the kernel with this attempt or an older one exists; its log is kept."""

    @activity.defn
    @abstractmethod
    async def update_kernel(self, order: UpdateKernel) -> None:
        """The container has the limits. Key: kernel, attempt and limits. Fails for good with UPDATE_REFUSED and the
        numbers: memory below what is in use, a container that does not run, the runtime's own words."""

    @activity.defn
    @abstractmethod
    async def commit_kernel(self, order: CommitKernel) -> CommittedImage:
        """The node has an image of the container, which goes on. Key: all of the order. Fails with COMMIT_REFUSED."""


@dataclass(frozen=True, slots=True)
class Presence:
    agent_id: str
    incarnation: str


class PresenceActivities(ABC):
    """On the node's own queue: one long-running activity whose heartbeats are the node's."""

    @activity.defn
    @abstractmethod
    async def hold_presence(self, presence: Presence) -> None:
        """Heartbeats every 5 s until cancelled. Never returns by itself."""


@dataclass(frozen=True, slots=True)
class Move:
    """A guarded step to a status that holds resources."""

    session_id: str
    attempt: int
    to_status: str
    message: str = ""
    reason: str = ""
    agent_id: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """Record RUNNING, with the containers that were made."""

    session_id: str
    attempt: int
    kernels: list[CreatedKernel]
    agent_id: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """Record the end. What the session holds on `fenced_agents` (lost ones) is kept until they prove it gone."""

    session_id: str
    ending: Ending
    actor: str
    fenced_agents: list[str] = field(default_factory=list)
    usage: list[KernelUsage] = field(default_factory=list)
    last_lines: str = ""


@dataclass(frozen=True, slots=True)
class Requeue:
    """Back to PENDING with the next attempt, the failed node (if one is named) last in line."""

    session_id: str
    attempt: int
    reason: str
    message: str
    avoid_agent: str
    fenced_agents: list[str] = field(default_factory=list)
    usage: list[KernelUsage] = field(default_factory=list)
    slots: dict[str, int] = field(default_factory=dict)  # what each kernel asks from now on; empty: as before


@dataclass(frozen=True, slots=True)
class SessionState:
    """What the database says of a session, for a workflow that takes over from a killed one."""

    status: str
    attempt: int
    kernels: list[KernelSpec] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Note:
    """A line of the timeline of a session whose status stays. Key: session, reason and `at`.

    With a kernel and its health, that is kept too.
    """

    session_id: str
    attempt: int
    reason: str
    message: str
    actor: str = "workflow"
    at: float = 0.0
    kernel_id: str = ""
    health: str = ""


@dataclass(frozen=True, slots=True)
class Again:
    """Order to place the kernels once more where they are, with the next attempt. `slots` empty: as before."""

    session_id: str
    attempt: int
    slots: dict[str, int] = field(default_factory=dict)
    usage: list[KernelUsage] = field(default_factory=list)  # of the attempt that is over


@dataclass(frozen=True, slots=True)
class ReserveResize:
    """Order to hold what a resize needs, beside what is held."""

    session_id: str
    attempt: int
    slots: dict[str, int]
    actor: str
    move: bool = False


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a resize comes to: refused, done in the running containers, by a restart in place, or elsewhere."""

    refused: Answer | None = None
    restart: bool = False
    elsewhere: bool = False
    before: dict[str, int] = field(default_factory=dict)  # the slots of each kernel until now


@dataclass(frozen=True, slots=True)
class SettleResize:
    """The end of a resize: the session has these slots and holds no more than they say."""

    session_id: str
    attempt: int
    slots: dict[str, int]
    reason: str
    message: str
    actor: str = "workflow"


@dataclass(frozen=True, slots=True)
class Prolong:
    """Record a longer lifetime (seconds from the start on; 0 is none), and until when idleness is no end."""

    session_id: str
    attempt: int
    lifetime_s: float
    kept_until: float  # seconds since 1970
    message: str
    actor: str
    at: float = 0.0


class SessionActivities(ABC):
    """On the control queue, as local activities: a session's rows. Each is one transaction."""

    @activity.defn
    @abstractmethod
    async def move_session(self, move: Move) -> bool:
        """The row has the status, if its attempt is still this one and the move is allowed. Key: all three."""

    @activity.defn
    @abstractmethod
    async def record_started(self, started: Started) -> bool:
        """The row is RUNNING with its containers' ids. Key: session and attempt."""

    @activity.defn
    @abstractmethod
    async def requeue_session(self, requeue: Requeue) -> int:
        """The row is PENDING with attempt + 1 and holds nothing. Key: session and attempt. Returns the new attempt."""

    @activity.defn
    @abstractmethod
    async def finish_session(self, finish: Finish) -> str:
        """The row is terminal, its allocations are released (or fenced), once. Returns the first ending's status."""

    @activity.defn
    @abstractmethod
    async def session_state(self, session_id: str) -> SessionState:
        """What the rows say now."""

    @activity.defn
    @abstractmethod
    async def note_session(self, note: Note) -> bool:
        """The timeline has the line, once."""

    @activity.defn
    @abstractmethod
    async def place_again(self, again: Again) -> Assignment:
        """What the session holds is held by the next attempt, on the same nodes. Key: session and attempt.

        No container of the old attempt is left when this is asked. With other slots: as `reserve_resize` has held them.
        No kernels in the answer: the session has ended or gone on.
        """

    @activity.defn
    @abstractmethod
    async def reserve_resize(self, order: ReserveResize) -> Reserved:
        """RESIZING, and both the old and the new slots are held; or refused, RUNNING and nothing changed.

        Key: session, attempt and slots. Undone, or made good, by `settle_resize`; by `place_again` for a restart.
        """

    @activity.defn
    @abstractmethod
    async def settle_resize(self, order: SettleResize) -> bool:
        """RUNNING with exactly these slots. Key: all of it."""

    @activity.defn
    @abstractmethod
    async def prolong_session(self, order: Prolong) -> bool:
        """The row has the lifetime and the timeline says so, once."""

    @activity.defn
    @abstractmethod
    async def pull_order(self, image: str) -> PullImage:
        """The order to pull an image, with the credentials that its registry has now. Changes nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the control plane says of an agent's containers: those to destroy."""

    destroy: list[Destroy] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AgentReport:
    """Signal `report`: the containers with our labels on the node, its images, and how its devices are."""

    agent_id: str
    incarnation: str
    containers: list[ContainerSeen]
    images: list[str] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    image_details: list[NodeImage] = field(default_factory=list)  # empty: as before


class AgentActivities(ABC):
    """On the control queue: an agent's rows, and messages to the sessions on it."""

    @activity.defn
    @abstractmethod
    async def register_agent(self, info: AgentInfo) -> None:
        """The node's row is ALIVE with this capacity. Key: agent id. `reconcile_agent` compares what runs there."""

    @activity.defn
    @abstractmethod
    async def reconcile_agent(self, report: AgentReport) -> Verdict:
        """Sessions whose container is missing or has ended are told; containers nobody expects are returned.

        What was held for the node while it was lost is released for each container that is proven gone. Sessions that
        hold a device whose health changed are told in their timeline.
        """

    @activity.defn
    @abstractmethod
    async def mark_agent_lost(self, agent_id: str) -> int:
        """The node's row is LOST and each session on it was told `node_lost`. Returns how many were told."""

    @activity.defn
    @abstractmethod
    async def drain_agent(self, agent_id: str) -> int:
        """The node takes nothing new, and sessions that may move were told to. Returns how many still hold room."""


@dataclass(frozen=True, slots=True)
class SchedulerInput:
    resource_group: str
    policy: str


class MaintenanceActivities(ABC):
    """On the control queue, run by a Temporal Schedule."""

    @activity.defn
    @abstractmethod
    async def reap(self) -> int:
        """Rows that are not terminal have a workflow, and each resource group has a scheduler.

        Sessions on lost nodes are told again, old passes forgotten. Returns how many sessions' workflows were started.
        """


def registered(contract: type, implementation: object) -> list[Callable[..., Any]]:
    """The implementation's methods, under the contract's activity names, for a worker."""
    methods = []
    for name, promise in vars(contract).items():
        if hasattr(promise, _DEFINITION):
            function = getattr(type(implementation), name)
            if not hasattr(function, _DEFINITION):
                activity.defn(function)
            methods.append(getattr(implementation, name))
    return methods


_DEFINITION = "__temporal_activity_definition"
