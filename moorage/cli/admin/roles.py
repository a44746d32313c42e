"""Verbs about roles, and who holds them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from moorage.cli import show as shown
from moorage.cli.admin.asking import Admin, Description, First, listed, printed, wish
from moorage.cli.seconds import parse_seconds
from moorage.cli.sessions import AsJson
from moorage.domain.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Roles: sets of permissions, held in a scope.")

Role = Annotated[str, typer.Argument(help="The role.")]
Permissions = Annotated[list[str], typer.Argument(help="entity:operation; * for all of either.")]


@app.command()
def ls(json: AsJson = False) -> None:
    """List roles with how much they permit."""
    page = Admin().ask("GET", "role")
    if json:
        return shown.as_json(page)
    return shown.table(
        ["ROLE", "BUILT IN", "PERMISSIONS", "HELD IN", "DESCRIPTION"],
        [
            (one["name"], "yes" if one["built_in"] else "no", len(one["permissions"]), ", ".join(one["held_in"]),
             one["description"])
            for one in page["items"]
        ],
    )  # fmt: skip


@app.command()
def show(role: Role, json: AsJson = False) -> None:
    """Show a role with its permissions."""
    printed(Admin().ask("GET", "role", role), json=json)


@app.command()
def create(role: Role, permissions: Permissions, description: Description = None, json: AsJson = False) -> None:
    """Make a role."""
    body = wish(name=role, permissions=permissions, description=description)
    printed(Admin().ask("POST", "role", body=body), json=json)


@app.command("set")
def change(
    role: Role,
    permission: Annotated[list[str] | None, typer.Option(help="All that it permits, may be repeated.")] = None,
    description: Description = None,
    json: AsJson = False,
) -> None:
    """Change a role; whoever holds it holds the new permissions at once."""
    body = wish(permissions=permission, description=description)
    printed(Admin().ask("PATCH", "role", role, body=body), json=json)


@app.command()
def rm(role: Role) -> None:
    """Delete a role that nobody holds."""
    Admin().ask("DELETE", "role", role)


@app.command()
def assign(
    role: Role,
    user: Annotated[str, typer.Argument(help="Whoever gets it, by e-mail address.")],
    domain: Annotated[str | None, typer.Option(help="In this domain.")] = None,
    project: Annotated[str | None, typer.Option(help="In this project, DOMAIN/PROJECT.")] = None,
    of_user: Annotated[str | None, typer.Option(help="On what this user has.")] = None,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="In all domains.")] = False,
    period: Annotated[
        float | None, typer.Option("--for", parser=parse_seconds, metavar="TIME", help="Ends after so long.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Give a role to a user, in one scope."""
    scopes = wish(domain=domain, project=project, user=of_user) | ({"global": ""} if everywhere else {})
    if len(scopes) != 1:
        raise InvalidRequest("name one of --domain, --project, --of-user and --everywhere")
    [(kind, scope)] = scopes.items()
    end = None if period is None else (datetime.now(UTC) + timedelta(seconds=period)).isoformat()
    body = wish(user=user, scope_kind=kind, scope=scope, expires_at=end)
    printed(Admin().ask("POST", "role", role, "assignment", body=body), json=json)


@app.command()
def revoke(assignment: Annotated[str, typer.Argument(help="Its id; `moor admin role who` tells.")]) -> None:
    """Take a role away again."""
    Admin().ask("DELETE", "role", "assignment", assignment)


@app.command()
def who(
    role: Annotated[str | None, typer.Argument(help="The role; all if left out.")] = None,
    user: Annotated[str | None, typer.Option(help="Of this user only, by e-mail address.")] = None,
    offset: First = 0,
    json: AsJson = False,
) -> None:
    """List who holds which role, and where."""
    listed(
        ["USER", "ROLE", "SCOPE", "OF", "GIVEN BY", "ENDS", "ID"],
        ["user", "role", "scope_kind", "scope", "granted_by", "expires_at", "id"],
        "assignment",
        json=json,
        offset=offset,
        role=role,
        user=user,
    )
