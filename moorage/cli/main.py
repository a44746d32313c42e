"""`moor`: a thin client of the REST API, and the starter of every role."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from moorage.cli import (
    admin,
    agents,
    audit,
    bench,
    check,
    cluster,
    decisions,
    groups,
    idle,
    limits,
    login,
    quotas,
    rekey,
    roles,
    secrets,
    sessions,
    show,
    system,
    tokens,
    top,
)
from moorage.domain.errors import MoorageError

app = typer.Typer(
    name="moor",
    help="Run compute sessions on a cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_VERBS: dict[str, Callable[..., None]] = {
    "run": sessions.run,
    "ps": sessions.ps,
    "show": sessions.show_session,
    "logs": sessions.logs,
    "stop": sessions.stop,
    "exec": sessions.execute,
    "events": sessions.events,
    "top": top.top,
    "idle": idle.idle,
    "extend": idle.extend,
    "why": decisions.why,
    "queue": decisions.queue,
    "plan": decisions.plan,
    "simulate": decisions.simulate,
    "replay": decisions.replay,
    "resources": cluster.resources,
    "audit": audit.audit,
    "up": system.up,
    "down": system.down,
    "status": system.status,
    "check": check.check,
    "rekey": rekey.rekey,
    "login": login.login,
    "logout": login.logout,
    "password": login.password,
    "api": roles.api,
    "worker": roles.worker,
    "agent": roles.agent,
}
for _name, _verb in _VERBS.items():
    app.command(_name)(_verb)
_NOUNS = {
    "agents": agents.app,
    "groups": groups.app,
    "limits": limits.app,
    "quota": quotas.app,
    "admin": admin.app,
    "secret": secrets.app,
    "token": tokens.app,
    "totp": login.totp,
    "bench": bench.app,
}
for _noun, _sub in _NOUNS.items():
    app.add_typer(_sub, name=_noun)


def run() -> None:
    """The console script. What is refused is said in plain words on stderr, with exit code 1."""
    try:
        app()
    except MoorageError as error:
        show.note(f"moor: {error.message}")
        if error.hint:
            show.note(f"hint: {error.hint}")
        sys.exit(1)
    except OSError as error:
        show.note(f"moor: {error.filename}: {error.strerror}" if error.filename else f"moor: {error}")
        sys.exit(1)


if __name__ == "__main__":
    run()
