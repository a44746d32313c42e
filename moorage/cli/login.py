"""Verbs about who one is: login, logout, password, totp."""

from __future__ import annotations

import getpass
import sys
import webbrowser
from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.browser import code_from_browser
from moorage.cli.client import Client, Json, Refused
from moorage.cli.profile import Profile, endpoint_of_profile
from moorage.cli.signed_in import forget, keep
from moorage.domain.errors import InvalidRequest

totp = typer.Typer(help="One-time codes at log-in: on, off.", no_args_is_help=True)

FromStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read each password, code or secret as a line of standard input.")
]


def login(
    email: Annotated[str, typer.Option(help="The e-mail address; asked for if left out.")] = "",
    endpoint: Annotated[str, typer.Option(help="Address of the API; MOORAGE_ENDPOINT or client.toml otherwise.")] = "",
    oidc: Annotated[bool, typer.Option("--oidc", help="Log in at the identity provider, in a browser.")] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address for --oidc.")] = False,
    password_stdin: FromStdin = False,
) -> None:
    """Log in; the tokens are kept in client.toml and renewed by themselves."""
    endpoint = endpoint.rstrip("/") or endpoint_of_profile()
    client = Client(Profile(endpoint, "", ""))
    if oidc:
        answer = client.exchange(code_from_browser(endpoint, open_at=_tell if no_browser else _open))
    else:
        ask = _Ask(from_stdin=password_stdin)
        answer = _with_password(client, email or ask.words("E-mail"), ask)
    keep(endpoint, answer)
    show.note("logged in")


def logout(
    everywhere: Annotated[bool, typer.Option("--all", help="Every log-in of this user, on all machines.")] = False,
) -> None:
    """End this log-in and forget its tokens."""
    try:
        ended = Client().log_out(everywhere=everywhere)["ended"]
    except Refused as refusal:
        if refusal.status != 401:
            raise
        ended = 0
    forget()
    show.note(f"logged out ({ended} ended)")


def password(password_stdin: FromStdin = False) -> None:
    """Change one's own password; every other log-in ends."""
    ask = _Ask(from_stdin=password_stdin)
    Client().change_password(ask.secret("Old password"), _new(ask))
    show.note("password changed")


@totp.command()
def on(password_stdin: FromStdin = False) -> None:
    """Begin with one-time codes: shows the secret for an app and asks for a first code."""
    client = Client()
    begun = client.start_codes()
    show.fields({"secret": begun["secret"], "address": begun["uri"]})
    client.confirm_codes(_Ask(from_stdin=password_stdin).words("Code"))
    show.note("one-time codes are on")


@totp.command()
def off(password_stdin: FromStdin = False) -> None:
    """Log in without one-time codes again."""
    Client().end_codes(_Ask(from_stdin=password_stdin).words("Code"))
    show.note("one-time codes are off")


class _Ask:
    """A person at the terminal, without echo for secrets; or line after line of standard input."""

    def __init__(self, *, from_stdin: bool) -> None:
        self._from_stdin = from_stdin

    def words(self, what: str) -> str:
        return self._line(what) if self._from_stdin else input(f"{what}: ").strip()

    def secret(self, what: str) -> str:
        return self._line(what) if self._from_stdin else getpass.getpass(f"{what}: ")

    def _line(self, what: str) -> str:
        line = sys.stdin.readline()
        if not line:
            raise InvalidRequest(f"standard input has ended; a line was wanted: {what}", code="no-input")
        return line.rstrip("\r\n")


def _with_password(client: Client, email: str, ask: _Ask) -> Json:
    """Asks for a code or a new password only where that is wanted."""
    password, otp = ask.secret("Password"), ""
    while True:
        try:
            return client.log_in(email, password, otp)
        except Refused as refusal:
            if refusal.code == "otp-required" and not otp:
                otp = ask.words("Code")
            elif refusal.code == "password-expired":
                show.note(refusal.message)
                password = _changed(client, email, password, ask)
            else:
                raise


def _changed(client: Client, email: str, old: str, ask: _Ask) -> str:
    new = _new(ask)
    try:
        client.change_expired(email, old, new, "")
    except Refused as refusal:
        if refusal.code != "otp-required":
            raise
        client.change_expired(email, old, new, ask.words("Code"))
    return new


def _new(ask: _Ask) -> str:
    new = ask.secret("New password")
    if ask.secret("New password again") != new:
        raise InvalidRequest("the new password was typed differently the second time", code="not-the-same")
    return new


def _tell(address: str) -> None:
    show.note(f"open {address}")


def _open(address: str) -> None:
    _tell(address)
    webbrowser.open(address)
