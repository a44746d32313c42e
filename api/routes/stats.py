"""What sessions use, over REST."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.measured import Answers, Node, ask
from moorage.db import sessions, usage
from moorage.domain.session import TERMINAL
from moorage.domain.stats import KernelStats, Stats, total
from moorage.domain.usage import summary

router = APIRouter(tags=["stats"])
_KEPT_S = 900


@router.get("/session/{ref}/stats", summary="What a session uses now")
async def show(ref: str, who: Who, parts: With, since_s: Annotated[int, Query(ge=0, le=_KEPT_S)] = 0) -> Response:
    """Each kernel and the sum; with `since_s` the samples since then too. Null is unknown. After its end: `usage`."""
    row = await sessions.find(parts.engine, who, ref)
    session_id, has_ended = str(row["id"]), row["status"] in TERMINAL
    places = [] if has_ended else await usage.places(parts.engine, [session_id])
    answers = await ask(parts, _nodes(places), session_id=session_id, since_s=since_s)
    found = _by_kernel(answers)
    kernels = [(place, found.get((place.kernel_id, place.attempt))) for place in places]
    return JSONResponse(
        {
            "session": {"id": session_id, "name": row["name"], "status": row["status"]},
            "kernels": [_kernel(place, seen) for place, seen in kernels],
            "total": shown(total([seen.stats if seen else None for _, seen in kernels])),
            "usage": summary(usage.kept(row["usage"]), row["slots"]),
            "unanswered": answers.unanswered,
        }
    )


@router.get("/stats", summary="What all running sessions use now")
async def index(who: Who, parts: With, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
    """The newest that one may read; `total` is how many there are. Nodes in `unanswered` did not answer in time."""
    rows, count = await usage.running(parts.engine, who, limit)
    of_session: dict[str, list[usage.Place]] = {row["id"]: [] for row in rows}
    for place in await usage.places(parts.engine, list(of_session)):
        of_session[place.session_id].append(place)
    answers = await ask(parts, _nodes(place for places in of_session.values() for place in places))
    found = _by_kernel(answers)
    items = [_session(row, of_session[row["id"]], found) for row in rows]
    return JSONResponse({"items": items, "total": count, "limit": limit, "unanswered": answers.unanswered})


def shown(stats: Stats | None) -> dict[str, Any] | None:
    """As clients see them."""
    if stats is None:
        return None
    return {
        "at": _moment(stats.at),
        "age_s": stats.age_s,
        "cpu": {
            "used": stats.cpu,
            "limit": stats.cpu_limit,
            "percent": stats.cpu_percent,
            "total_ms": stats.cpu_ms,
        },
        "mem": {"used": stats.mem, "limit": stats.mem_limit, "percent": stats.mem_percent, "peak": stats.mem_peak},
        "io": {
            "read_bytes": stats.io_read,
            "write_bytes": stats.io_write,
            "read_bytes_s": stats.io_read_s,
            "write_bytes_s": stats.io_write_s,
        },
        "net": {
            "rx_bytes": stats.net_rx,
            "tx_bytes": stats.net_tx,
            "rx_bytes_s": stats.net_rx_s,
            "tx_bytes_s": stats.net_tx_s,
        },
        "pids": stats.pids,
        "devices": [asdict(device) for device in stats.devices],
    }


def _kernel(place: usage.Place, seen: KernelStats | None) -> dict[str, Any]:
    history = [] if seen is None else seen.history
    return {
        "role": place.role,
        "idx": place.idx,
        "agent": place.agent,
        "stats": shown(seen.stats) if seen else None,
        "history": [{**point, "at": _moment(point["at"] or 0.0)} for point in history],
    }


def _session(
    row: Mapping[str, Any], places: list[usage.Place], found: Mapping[tuple[str, int], KernelStats]
) -> dict[str, Any]:
    kernels = [found.get((place.kernel_id, place.attempt)) for place in places]
    return {
        **row,
        "started_at": row["started_at"] and row["started_at"].isoformat(),
        "agents": sorted({place.agent for place in places if place.agent}),
        "stats": shown(total([seen.stats if seen else None for seen in kernels])),
    }


def _nodes(places: Iterable[usage.Place]) -> set[Node]:
    return {
        Node(place.agent, place.address or "", place.agent_status or "") for place in places if place.agent is not None
    }


def _by_kernel(answers: Answers) -> dict[tuple[str, int], KernelStats]:
    """By kernel and attempt: what a node says of another attempt is of another life."""
    return {
        (kernel.kernel_id, kernel.attempt): kernel for answer in answers.by_agent.values() for kernel in answer.kernels
    }


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
