"""Verbs about sessions: run, ps, show, logs, stop, exec, events."""

from __future__ import annotations

import shlex
import sys
from math import isfinite, nan
from typing import Annotated, Any, NoReturn

import typer
from typer.models import OptionInfo

from moorage.cli import health, show
from moorage.cli.client import Client, Json
from moorage.cli.pairs import pairs
from moorage.cli.seconds import parse_seconds
from moorage.cli.usage import used
from moorage.cli.wait import Watch, is_over, step
from moorage.domain.errors import InvalidRequest
from moorage.domain.idle import idle_words
from moorage.domain.network import NetworkPolicy
from moorage.domain.session import (
    DependencyPolicy,
    NodeLossPolicy,
    RestartPolicy,
    SessionResult,
    SessionStatus,
    SessionType,
)
from moorage.scheduler.snapshot import ClusterMode

FAILED = 125  # the session itself failed, not the command in it
INTERRUPTED = 130


def _length(help: str) -> OptionInfo:
    """An option that takes a length of time."""
    option: OptionInfo = typer.Option(parser=parse_seconds, metavar="TIME", help=help)
    return option


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Ref = Annotated[str, typer.Argument(help="Session id or name.")]


def run(
    image: Annotated[str, typer.Argument(help="Container image.")],
    command: Annotated[list[str] | None, typer.Argument(help="Command, after `--`.")] = None,
    cpu: Annotated[str, typer.Option(help="Cores, for example 1, 0.5 or 500m.")] = "1",
    mem: Annotated[str, typer.Option(help="Memory, for example 256m or 2g.")] = "256m",
    name: Annotated[str | None, typer.Option(help="Name; one is made up by default.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, may be repeated.")] = None,
    secret: Annotated[list[str] | None, typer.Option(help="NAME, NAME=VARIABLE or NAME=/PATH; repeatable.")] = None,
    type: Annotated[SessionType | None, typer.Option(help="Batch with a command, else interactive.")] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 100, 10 by default; higher goes first.")] = None,
    group: Annotated[str | None, typer.Option(help="Resource group.")] = None,
    project: Annotated[str | None, typer.Option(help="One of your projects; the main one by default.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Whole GPUs, for example 2, or a part of one, 0.5.")] = None,
    slot: Annotated[list[str] | None, typer.Option(help="NAME=AMOUNT of another resource, may be repeated.")] = None,
    cluster_size: Annotated[int | None, typer.Option(help="Kernels of a gang, each with these resources.")] = None,
    cluster_mode: Annotated[ClusterMode | None, typer.Option(help="A gang on one node, or packed on few.")] = None,
    after: Annotated[list[str] | None, typer.Option(help="Session that must succeed before, may be repeated.")] = None,
    on_dependency_failure: Annotated[DependencyPolicy | None, typer.Option(help="When one of them fails.")] = None,
    not_before: Annotated[str | None, typer.Option(help="An ISO time, or from now on as 10m or 2h.")] = None,
    arch: Annotated[str | None, typer.Option(help="x86_64 or aarch64.")] = None,
    network: Annotated[
        NetworkPolicy | None, typer.Option(help="What it may reach: the world, its own, nothing.")
    ] = None,
    preemptible: Annotated[bool | None, typer.Option(help="Whether it may be stopped for others.")] = None,
    job_priority: Annotated[int | None, typer.Option(help="Higher may preempt lower.")] = None,
    on_node_loss: Annotated[NodeLossPolicy | None, typer.Option(help="End, or start on another node.")] = None,
    pending_timeout: Annotated[float | None, _length("Longest wait for a node, for example 10m.")] = None,
    lifetime: Annotated[float | None, _length("Longest life from RUNNING on, for example 8h.")] = None,
    batch_timeout: Annotated[float | None, _length("The same, for batch sessions only.")] = None,
    grace: Annotated[float | None, _length("From the stop signal to the kill; 10s by default.")] = None,
    restart: Annotated[RestartPolicy | None, typer.Option(help="When its container has ended by itself.")] = None,
    max_restarts: Annotated[int | None, typer.Option(help="In a row; 5 by default. Then it ends as ERROR.")] = None,
    health_cmd: Annotated[
        str | None, typer.Option(help="Shell command in it that exits with 0 while it is well.")
    ] = None,
    health_port: Annotated[
        int | None, typer.Option(help="Port of it that accepts connections while it is well.")
    ] = None,
    health_every: Annotated[float | None, _length("From one check to the next; 10s by default.")] = None,
    health_timeout: Annotated[float | None, _length("How long one check may take; 5s by default.")] = None,
    health_retries: Annotated[int | None, typer.Option(help="Failures in a row; 3 by default.")] = None,
    health_start_within: Annotated[float | None, _length("Until the first success; 60s by default.")] = None,
    idle: Annotated[float | None, _length("Stopped when idle for so long, for example 1h.")] = None,
    idle_cpu: Annotated[float | None, typer.Option(help="Idle is below so many percent of its cores.")] = None,
    idle_device: Annotated[float | None, typer.Option(help="And of its devices.")] = None,
    idle_net: Annotated[float | None, typer.Option(help="And so many bytes a second of network.")] = None,
    idle_grace: Annotated[float | None, _length("From the warning to the stop, for example 5m.")] = None,
    idle_dry_run: Annotated[bool | None, typer.Option("--idle-dry-run", help="Only tell when it would be.")] = None,
    no_idle: Annotated[bool | None, typer.Option("--no-idle", help="Never; for administrators.")] = None,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Return as soon as it is queued.")] = False,
    json: AsJson = False,
) -> None:
    """Run a session and follow it. The exit code is the command's; 125 when the session failed."""
    client = Client()
    body: Json = {
        "image": image,
        "type": type or (SessionType.BATCH if command else SessionType.INTERACTIVE),
        "command": command or [],
        "env": pairs("--env", env or []),
        "resources": {"cpu": cpu, "mem": mem, **gpus(gpu), **pairs("--slot", slot or [])},
    }
    wishes: Json = {
        "name": name,
        "secrets": [secret_use(one) for one in secret or []] or None,
        "priority": priority,
        "resource_group": group,
        "project": project,
        "cluster_size": cluster_size,
        "cluster_mode": cluster_mode,
        "dependencies": after or None,
        "on_dependency_failure": on_dependency_failure,
        "not_before": not_before,
        "architecture": arch,
        "network": network,
        "preemptible": preemptible,
        "job_priority": job_priority,
        "on_node_loss": on_node_loss,
        "pending_timeout_s": pending_timeout,
        "lifetime_s": lifetime,
        "batch_timeout_s": batch_timeout,
        "grace_s": grace,
        "restart_policy": restart,
        "max_restarts": max_restarts,
        "health": health.wish(
            health_cmd,
            health_port,
            every_s=health_every,
            timeout_s=health_timeout,
            retries=health_retries,
            start_within_s=health_start_within,
        ),
        "idle": _given(
            after_s=idle,
            cpu_percent=idle_cpu,
            device_percent=idle_device,
            net_bps=idle_net,
            grace_s=idle_grace,
            dry_run=idle_dry_run,
            exempt=no_idle,
        )
        or None,
    }
    body |= {key: value for key, value in wishes.items() if value is not None}
    session = client.submit(body)
    if detach:
        return show.as_json(session) if json else print(session["name"])
    try:
        _follow(client, session, json=json)
    except KeyboardInterrupt:
        name = session["name"]
        show.note(f"\ndetached; the session goes on. Follow it: moor logs -f {name}. End it: moor stop {name}")
        raise typer.Exit(INTERRUPTED) from None


def ps(
    everything: Annotated[bool, typer.Option("-a", "--all", help="Ended sessions too.")] = False,
    json: AsJson = False,
) -> None:
    """List sessions."""
    page = Client().sessions(everything=everything)
    if json:
        return show.as_json(page)
    show.table(
        ["NAME", "ID", "STATUS", "IMAGE", "SLOTS", "AGENT", "AGE", "INFO"],
        [
            (s["name"], s["id"], health.status(s), s["image"], show.slots(s["slots"]), s["agent"],
             show.age(s["created_at"]), s["reason"] or s["status_info"])
            for s in page["items"]
        ],
    )  # fmt: skip
    if page["total"] > len(page["items"]):
        show.note(f"{len(page['items'])} of {page['total']} shown")
    return None


def show_session(ref: Ref, json: AsJson = False) -> None:
    """Show all about a session."""
    session = Client().session(ref)
    if json:
        return show.as_json(session)
    links = session.get("links") or {}
    hidden = {"links", "health", "health_status", "restart_policy", "max_restarts", "restarts", "last_lines"}
    values = {name.replace("_", " "): value for name, value in session.items() if name not in hidden}
    values["command"] = shlex.join(session["command"] or [])
    for name in ("pending timeout", "lifetime", "batch timeout", "grace"):
        seconds = values.pop(f"{name} s", None)
        if seconds is not None:
            values[name] = show.duration(seconds) if seconds else "none"
    values["slots"] = show.slots(session["slots"])
    values["agents"] = ", ".join(session.get("agents") or [])
    values["kernels"] = ", ".join(
        f"{kernel['role']}{kernel['idx']} on {kernel['agent'] or 'no node'}{health.of_kernel(kernel)}"
        for kernel in session.get("kernels") or []
    )
    values["dependencies"] = ", ".join(
        f"{needed['name']} ({needed['status']})" for needed in session.get("dependencies") or []
    )
    values |= health.facts(session) | used(values.pop("usage", None))
    values |= {"last lines": session["last_lines"]} if session.get("last_lines") else {}
    values["idle"] = idle_words(session.get("idle"))
    values |= used(values.pop("usage", None))
    return show.fields(values | {f"link {name}": link for name, link in links.items() if link})


def logs(
    ref: Ref,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Until the session ends.")] = False,
    json: AsJson = False,
) -> None:
    """Print what a session wrote."""
    client = Client()
    for text in client.follow_logs(ref) if follow else [client.logs(ref)]:
        if json:
            show.as_json({"text": text})
        else:
            sys.stdout.write(text)
        sys.stdout.flush()


def stop(
    ref: Ref,
    force: Annotated[bool, typer.Option("--force", help="No grace period.")] = False,
    json: AsJson = False,
) -> None:
    """Stop a session, wait until it is over, and say how it ended."""
    client = Client()
    session = Watch(client, client.stop(ref, forced=force), quiet=True).until()
    if json:
        return show.as_json(session)
    return print(how_it_ended(session))


def execute(
    ref: Ref,
    command: Annotated[list[str], typer.Argument(help="Command, after `--`.")],
    timeout: Annotated[float, _length("How long it may take.")] = 60.0,
    json: AsJson = False,
) -> None:
    """Run a command in a session's container. The exit code is the command's."""
    outcome = Client().execute(ref, command, timeout)
    if json:
        show.as_json(outcome)
    else:
        sys.stdout.write(outcome["stdout"])
        sys.stderr.write(outcome["stderr"])
    raise typer.Exit(int(outcome["exit_code"]))


def events(ref: Ref, json: AsJson = False) -> None:
    """Show each step of a session's life, and how long it stayed there."""
    client = Client()
    items = client.events(ref)
    if json:
        return show.as_json({"items": items})
    return show.table(["#", "AT", "STATUS", "STAYED", "ACTOR", "REASON", "MESSAGE"], _timeline(items))


def how_it_ended(session: Json) -> str:
    """`prime-1 terminated: self-terminated, exit code 0`, in words of the session's row."""
    words = [session.get("reason") or "no reason given"]
    code = None if session.get("exit_code") is None else f"exit code {session['exit_code']}"
    info = session.get("status_info") or ""
    if code and not info.startswith(code):
        words.append(code)
    if info:
        words.append(info)
    return f"{session['name']} {step(session['status'])}: {', '.join(words)}"


def exit_code_of(session: Json) -> int:
    """The command's own exit code; 125 when the session failed or was cancelled."""
    if session["status"] != SessionStatus.TERMINATED:
        return FAILED
    if session.get("exit_code") is not None:
        return int(session["exit_code"])
    return 1 if session.get("result") == SessionResult.FAILURE else 0


def _follow(client: Client, session: Json, *, json: bool) -> None:
    watch = Watch(client, session, quiet=json)
    if session["type"] == SessionType.BATCH:
        ended = watch.until() if json else watch.to_the_end()
        _finish(ended, json=json)
    session = watch.until(SessionStatus.RUNNING)
    if is_over(session):
        _finish(session, json=json)
    if json:
        show.as_json(session)
    else:
        show.note(f"{session['name']} is running: moor exec {session['name']} -- sh -c 'echo hello'")


def _finish(session: Json, *, json: bool) -> NoReturn:
    code = exit_code_of(session)
    if json:
        show.as_json(session)
    else:
        show.note(how_it_ended(session))
        if session["type"] != SessionType.BATCH:  # of those the whole log was shown
            health.tell_last_lines(session)
    raise typer.Exit(code)


def _timeline(items: list[Json]) -> list[tuple[Any, ...]]:
    rows = []
    for event, following in zip(items, [*items[1:], None], strict=True):
        at = show.moment(event["at"])
        stayed = show.duration((show.moment(following["at"]) - at).total_seconds()) if following else ""
        clock = at.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        rows.append(
            (event["seq"], clock, event["to_status"], stayed, event["actor"], event["reason"], event["message"])
        )
    return rows


def _given(**wishes: Any) -> Json:
    return {name: value for name, value in wishes.items() if value is not None}


def secret_use(text: str) -> str | Json:
    """NAME, NAME=VARIABLE or NAME=/a/path, as the API takes it."""
    name, equals, target = text.partition("=")
    if not equals:
        return name
    return {"name": name, "file" if target.startswith("/") else "env": target}


def gpus(words: str | None) -> dict[str, str]:
    """Whole devices, or shares of one."""
    if words is None:
        return {}
    try:
        number = float(words)
    except ValueError:
        number = nan
    if not isfinite(number):
        raise InvalidRequest(f"--gpu {words!r} is not a number; allowed are for example 2 or 0.5")
    return {"cuda.device": f"{number:.0f}"} if number.is_integer() else {"cuda.shares": words}
