"""A thin client of the REST API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from moorage.cli.profile import Profile, load_profile
from moorage.domain.errors import MoorageError, Unavailable

Json = dict[str, Any]

WAIT_S = 10  # length of one long poll
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_LONG = httpx.Timeout(600.0, connect=5.0)  # a queue played forward for days


class Refused(MoorageError):
    """The API's answer was a problem."""


class Client:
    """Speaks for one profile. Every method raises Refused with the API's words, or Unavailable without an answer."""

    def __init__(self, profile: Profile | None = None) -> None:
        profile = profile or load_profile()
        self._endpoint = profile.endpoint
        self._http = httpx.Client(
            base_url=profile.endpoint,
            auth=httpx.BasicAuth(profile.access_key, profile.secret_key),
            timeout=_TIMEOUT,
            trust_env=False,
        )

    def submit(self, body: Json) -> Json:
        return self._json("POST", "/session", json=body)

    def sessions(self, *, everything: bool, limit: int = 100) -> Json:
        return self._json("GET", "/session", params={"all": str(everything).lower(), "limit": limit, "offset": 0})

    def session(self, ref: str) -> Json:
        return self._json("GET", f"/session/{_quoted(ref)}")

    def session_after(self, ref: str, status: str) -> Json:
        """Waits up to WAIT_S seconds for a status other than the given one."""
        return self._json("GET", f"/session/{_quoted(ref)}", params={"wait_from": status, "wait_s": WAIT_S})

    def stop(self, ref: str, *, forced: bool) -> Json:
        return self._json("DELETE", f"/session/{_quoted(ref)}", params={"forced": str(forced).lower()})

    def events(self, ref: str) -> list[Json]:
        items: list[Json] = self._json("GET", f"/session/{_quoted(ref)}/events")["items"]
        return items

    def execute(self, ref: str, command: list[str], timeout_s: float) -> Json:
        body = {"command": command, "timeout_s": timeout_s}
        timeout = httpx.Timeout(timeout_s + 30, connect=5.0)
        return self._json("POST", f"/session/{_quoted(ref)}/exec", json=body, timeout=timeout)

    def logs(self, ref: str) -> str:
        return self._request("GET", f"/session/{_quoted(ref)}/logs").text

    def follow_logs(self, ref: str) -> Iterator[str]:
        """Pieces of the log from its beginning until the session's container has ended."""
        timeout = httpx.Timeout(None, connect=5.0)
        try:
            with self._http.stream(
                "GET", f"/session/{_quoted(ref)}/logs", params={"follow": "true"}, timeout=timeout
            ) as response:
                if response.is_error:
                    response.read()
                    raise _problem(response)
                yield from _log_pieces(response.iter_lines())
        except httpx.TransportError as error:
            raise self._no_answer(error) from None

    def stats(self, ref: str | None = None) -> Json:
        """Of one session, else of all that run."""
        if ref is not None:
            return self._json("GET", f"/session/{_quoted(ref)}/stats")
        return self._json("GET", "/stats", params={"limit": 1000})

    def why(self, ref: str) -> Json:
        return self._json("GET", f"/session/{_quoted(ref)}/why")

    def queue(self, group: str, limit: int) -> Json:
        return self._json("GET", f"/resource-group/{_quoted(group)}/queue", params={"limit": limit})

    def plan(self, body: Json) -> Json:
        return self._json("POST", "/plan", json=body)

    def simulate(self, group: str, change: Json) -> Json:
        return self._json("POST", f"/resource-group/{_quoted(group)}/simulate", json=change, timeout=_LONG)

    def replay(self, group: str, **wanted: str | None) -> Json:
        params = {name: value for name, value in wanted.items() if value is not None}
        return self._json("GET", f"/resource-group/{_quoted(group)}/replay", params=params, timeout=_LONG)

    def resources(self) -> Json:
        return self._json("GET", "/resource")

    def agents(self) -> list[Json]:
        items: list[Json] = self._json("GET", "/agent")["items"]
        return items

    def set_schedulable(self, agent_id: str, *, schedulable: bool) -> Json:
        return self._json("PATCH", f"/agent/{_quoted(agent_id)}", json={"schedulable": schedulable})

    def drain(self, agent_id: str) -> Json:
        return self._json("POST", f"/agent/{_quoted(agent_id)}/drain")

    def groups(self) -> list[Json]:
        items: list[Json] = self._json("GET", "/resource-group")["items"]
        return items

    def group(self, name: str) -> Json:
        return self._json("GET", f"/resource-group/{_quoted(name)}")

    def create_group(self, body: Json) -> Json:
        return self._json("POST", "/resource-group", json=body)

    def change_group(self, name: str, body: Json) -> Json:
        return self._json("PATCH", f"/resource-group/{_quoted(name)}", json=body)

    def remove_group(self, name: str) -> None:
        self._request("DELETE", f"/resource-group/{_quoted(name)}")

    def limits(self) -> list[Json]:
        items: list[Json] = self._json("GET", "/limit")["items"]
        return items

    def put_limit(self, scope: str, name: str, body: Json) -> Json:
        return self._json("PUT", f"/limit/{scope}/{_quoted(name)}", json=body)

    def remove_limit(self, scope: str, name: str) -> None:
        self._request("DELETE", f"/limit/{scope}/{_quoted(name)}")

    def is_ready(self) -> bool:
        try:
            return self._http.get("/health/ready", timeout=3.0).status_code == 200
        except httpx.TransportError:
            return False

    def _json(self, method: str, path: str, **options: Any) -> Json:
        response = self._request(method, path, **options)
        try:
            answer: Json = response.json()
        except ValueError:
            raise Refused(f"{self._endpoint} did not answer with JSON; is it Moorage's API?") from None
        return answer

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._no_answer(error) from None
        if response.is_error:
            raise _problem(response)
        return response

    def _no_answer(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"no answer from {self._endpoint} ({error or type(error).__name__})",
            hint="is it running? `moor status` tells, `moor up` starts it",
        )


def _problem(response: httpx.Response) -> MoorageError:
    try:
        body = response.json()
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    message = str(body.get("msg") or body.get("title") or f"the API answered {response.status_code}")
    kind = Unavailable if response.status_code == 503 else Refused
    problem = kind(message, code=str(body.get("code") or ""), hint=str(body.get("hint") or ""), data=body.get("data"))
    problem.status = response.status_code
    return problem


def _log_pieces(lines: Iterator[str]) -> Iterator[str]:
    event, data = "", ""
    for line in lines:
        if line.startswith("event:"):
            event = line[6:].strip()
        elif line.startswith("data:"):
            data += line[5:].strip()
        elif not line:
            if event == "end":
                return
            if event == "log":
                yield str(json.loads(data)["text"])
            event, data = "", ""
    raise Unavailable("the log stream broke off")


def _quoted(ref: str) -> str:
    return httpx.URL("/").join(f"/{ref.replace('/', '%2F')}").raw_path.decode()[1:]
