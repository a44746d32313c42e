"""Verbs about decisions: why, queue, plan, simulate, replay. They ask; nothing is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.cli.pairs import pairs
from moorage.cli.sessions import AsJson, Ref, gpus
from moorage.domain.errors import InvalidRequest
from moorage.scheduler.snapshot import ClusterMode

Group = Annotated[str, typer.Option(help="Resource group.")]


def why(ref: Ref, json: AsJson = False) -> None:
    """Say why a session waits, what would help, and when it will start."""
    answer = Client().why(ref)
    if json:
        return show.as_json(answer)
    if answer["status"] != "PENDING" or "obstacles" not in answer:
        return print(f"{answer['name']} is {answer['status']}: {answer['message']}")
    place = (
        f"number {answer['position']} of {answer['of']} in the queue" if answer["position"] else "not in its turn yet"
    )
    print(f"{answer['name']} waits in {answer['resource_group']}: {place}")
    show.table(
        ["CAUSE", "NODES", "WHAT"],
        [
            (one["cause"], "" if one["nodes"] is None else f"{one['nodes']} of {answer['nodes']}", one["message"])
            for one in answer["obstacles"]
        ],
    )
    if answer["change"]:
        print(f"it would start now if: {answer['change']}")
    print(f"expected start: {_expected(answer['expected'])}")
    return show.note(_past(answer["past_estimates"]))


def queue(
    group: Group = "default",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    json: AsJson = False,
) -> None:
    """Show who waits, in the order in which they are looked at."""
    answer = Client().queue(group, limit)
    if json:
        return show.as_json(answer)
    show.table(
        ["#", "NAME", "USER", "PRIORITY", "ASKS", "WAITS", "CAUSE", "WHAT"],
        [
            (s["position"], s.get("name", "(somebody else's)"), s.get("user", ""), s.get("priority", ""), _asks(s),
             show.age(s.get("created_at")), s.get("cause", ""), s.get("message", ""))
            for s in answer["items"]
        ],
    )  # fmt: skip
    return show.note(f"{answer['total']} wait in {answer['resource_group']}, ordered by {answer['policy']}")


def plan(
    image: Annotated[str, typer.Argument(help="Container image.")],
    cpu: Annotated[str, typer.Option(help="Cores, for example 1, 0.5 or 500m.")] = "1",
    mem: Annotated[str, typer.Option(help="Memory, for example 256m or 2g.")] = "256m",
    gpu: Annotated[str | None, typer.Option(help="Whole GPUs, for example 2, or a part of one, 0.5.")] = None,
    slot: Annotated[list[str] | None, typer.Option(help="NAME=AMOUNT of another resource, may be repeated.")] = None,
    cluster_size: Annotated[int, typer.Option(help="Kernels of a gang, each with these resources.")] = 1,
    cluster_mode: Annotated[ClusterMode, typer.Option(help="A gang on one node, or packed on few.")] = (
        ClusterMode.SINGLE_NODE
    ),
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 10,
    lifetime: Annotated[float, typer.Option(help="Seconds it may run; 0 is no limit.")] = 0,
    group: Group = "default",
    json: AsJson = False,
) -> None:
    """Ask whether a session would start now, where, or when. Nothing is submitted."""
    body: Json = {
        "image": image,
        "resources": {"cpu": cpu, "mem": mem, **gpus(gpu), **pairs("--slot", slot or [])},
        "cluster_size": cluster_size,
        "cluster_mode": cluster_mode,
        "priority": priority,
        "lifetime_s": lifetime,
        "resource_group": group,
    }
    answer = Client().plan(body)
    if json:
        return show.as_json(answer)
    if answer["starts"]:
        places = ", ".join(f"{kernel} on {agent}" for kernel, agent in answer["kernels"].items())
        return print(f"it would start now: {places}")
    print("it would wait:")
    for obstacle in answer["obstacles"]:
        print(f"  {obstacle['cause']}: {obstacle['message']}")
    if answer["change"]:
        print(f"it would start now if: {answer['change']}")
    return print(f"expected start: {_expected(answer['expected'])}")


def simulate(
    file: Annotated[Path, typer.Option("-f", "--file", help="What is different, in YAML (docs/scheduling.md).")],
    group: Group = "default",
    json: AsJson = False,
) -> None:
    """Show when each waiting session would start, if something were different, against now."""
    answer = Client().simulate(group, _read(file))
    if json:
        return show.as_json(answer)
    show.table(
        ["SESSION", "NOW STARTS IN", "THEN STARTS IN"],
        [(s["name"] or s["id"], _in(s["now_s"]), _in(s["then_s"])) for s in answer["sessions"]],
    )
    for name, key in (("now", "now"), ("then", "then")):
        figures = answer[key]
        print(
            f"{name}: {figures['started']} start, {figures['not_started']} don't,"
            f" mean wait {_in(figures['mean_wait_s'])}, cores busy {figures['utilisation'].get('cpu', 0.0):.0%}"
        )
    return None


def replay(
    since: Annotated[str | None, typer.Option("--from", help="ISO time; an hour ago by default.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="ISO time; now by default.")] = None,
    policy: Annotated[str | None, typer.Option(help="Another policy to decide them by.")] = None,
    group: Group = "default",
    json: AsJson = False,
) -> None:
    """Decide recorded passes again: the same placements come out, or who would have started earlier or later."""
    answer = Client().replay(group, since=since, until=until, policy=policy)
    if json:
        return show.as_json(answer)
    print(f"{answer['passes']} passes decided again, {answer['same']} with the same placements")
    for one in answer["differences"]:
        for what in ("earlier", "later", "elsewhere"):
            if one[what]:
                print(f"{one['at']}  {what}: {', '.join(one[what])}")
    return None


def _read(file: Path) -> Any:
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InvalidRequest(f"{file} can't be read: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise InvalidRequest(f"{file} holds no mapping; docs/scheduling.md shows one")
    return content


def _expected(expected: Json | None) -> str:
    if expected is None:
        return "not known: no simulated future starts it (time limits and past run times tell when room comes)"
    half, most = show.duration(expected["p50_s"]), show.duration(expected["p90_s"])
    return f"in {half} or sooner in half of the futures, in {most} in nine of ten"


def _past(error: Json) -> str:
    if not error["judged"]:
        return "no estimate has been judged yet"
    return (
        f"the last {error['judged']} estimates were off by {show.duration(error['median_error_s'])} in the middle;"
        f" {error['started_by_p90']:.0%} had started by the later time"
    )


def _in(seconds: float | None) -> str:
    return "not in sight" if seconds is None else show.duration(seconds)


def _asks(session: Json) -> str:
    asks = show.slots(session["slots"]) if session.get("slots") else ""
    return f"{session['cluster_size']} × ({asks})" if session.get("cluster_size", 1) > 1 else asks
