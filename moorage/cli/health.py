"""A session's health as people ask for it, and as they see it."""

from __future__ import annotations

import shlex

from moorage.cli import show
from moorage.cli.client import Json
from moorage.domain.errors import InvalidRequest
from moorage.domain.health import Health
from moorage.domain.session import RestartPolicy, SessionStatus

_MARKED = (Health.STARTING, Health.UNHEALTHY)


def wish(
    command: str | None,
    port: int | None,
    *,
    every_s: float | None,
    timeout_s: float | None,
    retries: int | None,
    start_within_s: float | None,
) -> Json | None:
    """One probe for the start and from then on. A command is a line for the container's shell, as with docker."""
    details = {"every_s": every_s, "timeout_s": timeout_s, "failures": retries}
    given = {name: value for name, value in details.items() if value is not None}
    if command is None and port is None:
        if given or start_within_s is not None:
            raise InvalidRequest("--health-… needs something to check: --health-cmd or --health-port")
        return None
    probe: Json = dict(given)
    probe |= {"command": ["sh", "-c", command]} if command is not None else {}
    probe |= {"port": port} if port is not None else {}
    return {"live": probe, **({} if start_within_s is None else {"start_within_s": start_within_s})}


def status(session: Json) -> str:
    """With a mark where a session runs, and is not well or not well yet."""
    health = session.get("health_status")
    marked = session["status"] == SessionStatus.RUNNING and health in _MARKED
    return f"{session['status']} ({health})" if marked else str(session["status"])


def of_kernel(kernel: Json) -> str:
    """`, unhealthy: exit code 1: no such file`, or nothing."""
    health = kernel.get("health")
    said = kernel.get("health_message") if health == Health.UNHEALTHY else ""
    return (f", {health}" if health else "") + (f": {said}" if said else "")


def facts(session: Json) -> dict[str, object]:
    """How it is checked and how often it began anew, for `moor show`."""
    found: dict[str, object] = {}
    if check := session.get("health"):
        probes = {"start": check.get("start"), "live": check.get("live")}
        words = [f"{name}: {_probe(probe)}" for name, probe in probes.items() if probe]
        found["health"] = "; ".join([*words, f"ready within {show.duration(check['start_within_s'])}"])
    policy = session.get("restart_policy", RestartPolicy.NEVER)
    if policy != RestartPolicy.NEVER:
        found["restarts"] = f"{session['restarts']}, {policy}, at most {session['max_restarts']} in a row"
    elif session.get("restarts"):
        found["restarts"] = session["restarts"]
    return found


def tell_last_lines(session: Json) -> None:
    """What it wrote last, if it failed: on stderr, below the error."""
    if lines := session.get("last_lines"):
        show.note("its last lines:")
        show.note("\n".join(f"  {line}" for line in lines.splitlines()))


def _probe(probe: Json) -> str:
    what = f"port {probe['port']}" if probe.get("port") else shlex.join(probe["command"])
    return f"{what} every {show.duration(probe['every_s'])}, {probe['failures']} failures"
