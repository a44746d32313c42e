"""What would be: one wish planned, a queue simulated, recorded passes decided again. Pure; takes seconds at worst."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from api.group_schemas import PutLimit, checked_options
from api.schemas import Seconds, Text
from moorage import plugins
from moorage.db.groups import policy_of
from moorage.db.passes import Pass
from moorage.db.submit import NewSession
from moorage.domain.errors import InvalidRequest, NotFound
from moorage.domain.images import tagged
from moorage.domain.resources import parse_slots
from moorage.domain.tenancy import Principal
from moorage.scheduler.explain import explain
from moorage.scheduler.planner import Planner
from moorage.scheduler.simulate import (
    Timeline,
    expected_start,
    replay,
    simulate,
    with_jobs,
    with_limits,
    without_nodes,
)
from moorage.scheduler.snapshot import (
    ClusterMode,
    Owner,
    Policy,
    Scope,
    Snapshot,
    TenantState,
    WaitingKernel,
    WaitingSession,
)

_LARGEST_QUEUE = 20_000
_SEED = 1  # the same question gets the same answer
_PLANNED = "planned"


class MoreJobs(BaseModel):
    """Sessions that would wait too; `run_s` is how long each runs."""

    model_config = ConfigDict(extra="forbid")
    count: int = Field(default=1, ge=1, le=10_000)
    resources: dict[Text, Text | int | float]
    run_s: float = Field(default=600, gt=0, le=365 * 86400)
    priority: int = Field(default=10, ge=0, le=100)
    cluster_size: int = Field(default=1, ge=1, le=4096)
    cluster_mode: ClusterMode = ClusterMode.SINGLE_NODE
    user: Text = "nobody@example.org"
    project: Text = "default/default"
    domain: Text = "default"


class OtherLimit(PutLimit):
    scope: Scope
    name: Text


class WhatIf(BaseModel):
    """What is different. `run_s`: how long sessions run of which neither a limit nor the past tells."""

    model_config = ConfigDict(extra="forbid")
    policy: Text | None = None
    selector: Text | None = None
    options: dict[Text, Any] = Field(default_factory=dict)
    remove_nodes: list[Text] = Field(default_factory=list, max_length=10_000)
    limits: list[OtherLimit] = Field(default_factory=list, max_length=1000)
    jobs: list[MoreJobs] = Field(default_factory=list, max_length=100)
    run_s: float = Field(default=600, gt=0, le=365 * 86400)
    horizon_s: Annotated[Seconds, Field(gt=0, le=30 * 86400)] = 86400


def planner_of(snapshot: Snapshot, policy: Policy) -> Planner:
    """With every plug-in that is installed."""
    return Planner(snapshot, policy, orders=plugins.orders(), selectors=plugins.selectors())


def waiting(new: NewSession, who: Principal, now: float) -> WaitingSession:
    """The wish as if it had just been submitted."""
    hosts = ["main1", *(f"sub{n}" for n in range(1, new.cluster_size))]
    limits = [seconds for seconds in (new.lifetime_s, new.batch_timeout_s) if seconds]
    return WaitingSession(
        session_id=_PLANNED,
        kernels=tuple(WaitingKernel(host, new.slots) for host in hosts),
        priority=new.priority,
        submitted=now,
        owner=Owner(who.email, f"{who.domain}/{who.project}", who.domain, who.access_key),
        session_type=new.type,
        image=tagged(new.image),
        architecture=new.architecture,
        cluster_mode=ClusterMode(new.cluster_mode),
        designated=frozenset(new.agents),
        not_before=new.not_before.timestamp() if new.not_before is not None else 0.0,
        time_limit_s=min(limits, default=None),
        job_priority=new.job_priority,
        preemptible=new.preemptible,
    )


def explained(snapshot: Snapshot, policy: Policy, session_id: str, history: Sequence[float]) -> dict[str, Any]:
    """Every obstacle, the position, what would help, and the expected start in seconds from now."""
    planner = planner_of(snapshot, policy)
    planner.decide()
    found = dataclasses.asdict(explain(planner, policy, session_id))
    del found["session_id"]
    return {**found, "expected": expected(snapshot, policy, session_id, history)}


def expected(snapshot: Snapshot, policy: Policy, session_id: str, history: Sequence[float]) -> dict[str, float] | None:
    """None where no future in sight starts it. Without a past, only time limits tell how long sessions run."""
    found = expected_start(
        snapshot,
        policy,
        session_id,
        history,
        seed=_SEED,
        orders=plugins.orders(),
        selectors=plugins.selectors(),
    )
    return None if found is None else {"p50_s": round(found[0], 1), "p90_s": round(found[1], 1)}


def planned(snapshot: Snapshot, policy: Policy, session: WaitingSession, history: Sequence[float]) -> dict[str, Any]:
    """`starts`, and where; or why not, and when."""
    asked = with_jobs(snapshot, [session])
    decisions = planner_of(asked, policy).decide_last()
    for placement in decisions.placements:
        if placement.session_id == session.session_id:
            devices = {kernel: dict(given) for kernel, given in placement.devices.items()}
            return {"starts": True, "kernels": dict(placement.kernels), "devices": devices}
    return {"starts": False, **explained(asked, policy, session.session_id, history)}


def compared(snapshot: Snapshot, group: Mapping[str, Any], change: WhatIf, history: Sequence[float]) -> dict[str, Any]:
    """The queue played forward as it is and as it would be. Times in seconds from now, null: not in sight."""
    if len(snapshot.waiting) + sum(jobs.count for jobs in change.jobs) > _LARGEST_QUEUE:
        raise InvalidRequest(f"{len(snapshot.waiting)} sessions wait; a simulation takes {_LARGEST_QUEUE} at most")
    unknown = sorted(set(change.remove_nodes) - {node.agent_id for node in snapshot.nodes})
    if unknown:
        raise NotFound(f"no node {unknown[0][:80]!r} takes work in this resource group")
    jobs, run_times = _more(change.jobs, snapshot.now)
    durations = _durations(snapshot, jobs, run_times, history, change.run_s)
    policy, other = policy_of(group), _other_policy(group, change)
    changed = with_jobs(with_limits(without_nodes(snapshot, change.remove_nodes), _limits(snapshot, change)), jobs)
    until = snapshot.now + change.horizon_s
    now = _played(snapshot, policy, durations, until)
    then = _played(changed, other, durations, until)
    played = {"now_s": now, "then_s": then}
    ids = [one.session_id for one in changed.waiting]
    return {
        "policy": other.order,
        "sessions": [
            {"id": one, **{key: _from(snapshot.now, line.started(one)) for key, line in played.items()}} for one in ids
        ],
        "now": _figures(now),
        "then": _figures(then),
    }


def replayed(kept: Iterable[Pass], order: str | None) -> dict[str, Any]:
    """How many recorded passes come out the same, and for the others who would have started earlier or later."""
    same, count, differences = 0, 0, []
    for one in kept:
        count += 1
        policy = one.policy if order is None else dataclasses.replace(one.policy, order=order)
        recorded = [(one.snapshot, policy, one.decisions)]
        [shift] = replay(recorded, orders=plugins.orders(), selectors=plugins.selectors())
        if not (shift.earlier or shift.later or shift.elsewhere):
            same += 1
            continue
        differences.append(
            {
                "pass": one.id,
                "at": one.at.isoformat(),
                "earlier": list(shift.earlier),
                "later": list(shift.later),
                "elsewhere": list(shift.elsewhere),
            }
        )
    return {"passes": count, "same": same, "differences": differences}


def _other_policy(group: Mapping[str, Any], change: WhatIf) -> Policy:
    for kind, name, known in (
        ("policy", change.policy, plugins.order_names()),
        ("selector", change.selector, plugins.selector_names()),
    ):
        if name is not None and name not in known:
            raise InvalidRequest(
                f"unknown {kind} {name[:64]!r}; allowed are {', '.join(known)}", code=f"unknown-{kind}"
            )
    options = checked_options({**group["options"], **change.options})
    return policy_of(
        {
            "policy": change.policy or group["policy"],
            "selector": change.selector or group["selector"],
            "options": options,
        }
    )


def _limits(snapshot: Snapshot, change: WhatIf) -> list[TenantState]:
    """What each owner holds stays; its limits and weight are those of the change."""
    known = {(tenant.scope, tenant.name): tenant for tenant in snapshot.tenants}
    states = []
    for other in change.limits:
        limit = other.checked()
        before = known.get((other.scope, other.name), TenantState(other.scope, other.name))
        states.append(
            dataclasses.replace(before, max_sessions=limit.max_sessions, max_slots=limit.max_slots, weight=limit.weight)
        )
    return states


def _more(more: Iterable[MoreJobs], now: float) -> tuple[list[WaitingSession], dict[str, float]]:
    jobs, run_times = [], {}
    for number, kind in enumerate(more, 1):
        slots = parse_slots({"cpu": "1", "mem": "256m", **kind.resources})
        for n in range(1, kind.count + 1):
            session_id = f"job {number}.{n}"
            run_times[session_id] = kind.run_s
            kernels = tuple(WaitingKernel(f"{session_id}/{k}", slots) for k in range(kind.cluster_size))
            owner = Owner(kind.user, kind.project, kind.domain)
            jobs.append(
                WaitingSession(session_id, kernels, kind.priority, now, owner=owner, cluster_mode=kind.cluster_mode)
            )
    return jobs, run_times


def _durations(
    snapshot: Snapshot,
    jobs: Iterable[WaitingSession],
    run_times: Mapping[str, float],
    history: Sequence[float],
    otherwise_s: float,
) -> Callable[[str], float]:
    """What is said of a job; else the time limit, the middle of the past, or what the question assumes."""
    usual = history[len(history) // 2] if history else otherwise_s
    limits = {one.session_id: one.time_limit_s for one in snapshot.running}
    limits |= {one.session_id: one.time_limit_s for one in (*snapshot.waiting, *jobs)}

    def run_s(session_id: str) -> float:
        limit = limits.get(session_id)
        return run_times.get(session_id) or (min(usual, limit) if limit is not None else usual)

    return run_s


def _played(snapshot: Snapshot, policy: Policy, durations: Callable[[str], float], until: float) -> Timeline:
    registries: dict[str, Any] = {"orders": plugins.orders(), "selectors": plugins.selectors()}
    return simulate(snapshot, policy, durations=durations, until=until, **registries)


def _figures(timeline: Timeline) -> dict[str, Any]:
    waits = [start.waited_s for start in timeline.starts]
    return {
        "started": len(waits),
        "not_started": len(timeline.waiting),
        "mean_wait_s": round(sum(waits) / len(waits), 1) if waits else None,
        "utilisation": {slot: round(part, 4) for slot, part in timeline.utilisation.items()},
    }


def _from(now: float, at: float | None) -> float | None:
    return None if at is None else round(max(0.0, at - now), 1)
