"""Following a session: its steps as they happen, its log as it grows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.domain.errors import MoorageError, Unavailable
from moorage.domain.session import TERMINAL, SessionStatus

T = TypeVar("T")

_PULL_LOOK_S = 0.5
PATIENCE_S = 60.0  # how long the API may be away before we give up
_WORDS = {SessionStatus.PENDING: "queued", SessionStatus.PREPARING: "preparing the image"}


def is_over(session: Json) -> bool:
    return session["status"] in TERMINAL


class Watch:
    """One session as it moves. Tells each step once, on stderr, with the time since submission."""

    def __init__(self, client: Client, session: Json, *, quiet: bool = False, told: int = 0) -> None:
        """`told`: so many steps are known already."""
        self.session = session
        self._client = client
        self._quiet = quiet
        self._told = told
        self._shown = 0  # characters of this attempt's log that were printed
        self._attempt = session.get("attempt")

    def until(self, *statuses: str) -> Json:
        """Returns when the session has one of the statuses, or is over."""
        self._tell()
        while self.session["status"] not in statuses and not is_over(self.session):
            status = self.session["status"]
            self._ask_after(status)
            if self.session["status"] != status:
                self._tell()
        return self.session

    def to_the_end(self) -> Json:
        """Prints the log to stdout while the session runs; a session that is requeued is followed on."""
        while not is_over(self.until(SessionStatus.RUNNING)):
            self._print_log()
            self.session = _patiently(lambda: self._client.session(self.session["id"]))
            self._leave_running()
        self._print_rest()
        return self.session

    def _leave_running(self) -> None:
        while self.session["status"] == SessionStatus.RUNNING:
            self._ask_after(SessionStatus.RUNNING)

    def _ask_after(self, status: str) -> None:
        if status == SessionStatus.PREPARING and not self._quiet:
            return self._ask_while_it_is_pulled()
        self.session = _patiently(lambda: self._client.session_after(self.session["id"], status))
        return None

    def _ask_while_it_is_pulled(self) -> None:
        """With a line about how far the image is, which is written over on a terminal."""
        line = show.Line()
        while self.session["status"] == SessionStatus.PREPARING:
            ref = self.session["id"]
            self.session = _patiently(lambda ref=ref: self._client.session_after(ref, "PREPARING", _PULL_LOOK_S))  # type: ignore[misc]
            with suppress(MoorageError):  # how far it is matters less than that it goes on
                for one in self._client.progress(ref):
                    line.say(f"  {one['agent']}: {one['words']}")
        line.end()

    def _print_log(self) -> None:
        given_up_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._print_stream()
            except Unavailable:
                if time.monotonic() > given_up_at:
                    raise
                time.sleep(0.5)
            except MoorageError:
                return None  # it ended between two questions; what is left comes with the plain log

    def _print_stream(self) -> None:
        self._begin_attempt()
        seen = 0
        for text in self._client.follow_logs(self.session["id"]):
            seen += len(text)
            if seen > self._shown:
                _write(text[-(seen - self._shown) :])
                self._shown = seen

    def _print_rest(self) -> None:
        self._begin_attempt()
        try:
            text = _patiently(lambda: self._client.logs(self.session["id"]))
        except MoorageError:
            return  # it never had a container
        _write(text[self._shown :])
        self._shown = max(self._shown, len(text))

    def _begin_attempt(self) -> None:
        if self.session.get("attempt") != self._attempt:
            self._attempt, self._shown = self.session.get("attempt"), 0

    def _tell(self) -> None:
        if self._quiet:
            return
        events = _patiently(lambda: self._client.events(self.session["id"]))
        for event in events[self._told :]:
            after = (show.moment(event["at"]) - show.moment(events[0]["at"])).total_seconds()
            show.note(
                f"{step(event['to_status']):<20} {show.duration(after):>8}  {event.get('message') or ''}".rstrip()
            )
        self._told = len(events)


def step(status: str) -> str:
    """The word for a status in a story: `queued` for PENDING."""
    try:
        return _WORDS.get(SessionStatus(status), status.lower())
    except ValueError:
        return status.lower()


def _patiently(ask: Callable[[], T]) -> T:
    """The answer, asked again while the API is away (it may be restarting), for PATIENCE_S at most."""
    given_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except Unavailable:
            if time.monotonic() > given_up_at:
                raise
            time.sleep(0.5)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
