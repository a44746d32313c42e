"""A thin client of the REST API."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from moorage.cli.profile import Profile, load_profile
from moorage.cli.signed_in import SignedIn
from moorage.cli.sockets import Address
from moorage.domain.errors import MoorageError, Unavailable

Json = dict[str, Any]

WAIT_S = 10  # length of one long poll
_PATIENCE_S, _AGAIN_S = 60.0, 0.5  # with a stream that broke off
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_LONG = httpx.Timeout(660.0, connect=5.0)  # a queue played forward for days, an image of gigabytes
_ASKED = httpx.Timeout(45.0, connect=5.0)  # the API waits for a session's answer for 30 s
_QUIET = httpx.Timeout(None, connect=5.0)  # a stream may be silent for long


class Refused(MoorageError):
    """The API's answer was a problem."""


class Client:
    """Speaks for one profile. Every method raises Refused with the API's words, or Unavailable without an answer."""

    def __init__(self, profile: Profile | None = None) -> None:
        profile = profile or load_profile()
        self._profile = profile
        self._endpoint = profile.endpoint
        self._http = httpx.Client(
            base_url=profile.endpoint,
            auth=_auth(profile),
            headers=_who(profile),
            timeout=_TIMEOUT,
            trust_env=False,
        )

    def submit(self, body: Json) -> Json:
        return self._json("POST", "/session", json=body)

    def sessions(self, *, everything: bool, limit: int = 100) -> Json:
        return self._json("GET", "/session", params={"all": str(everything).lower(), "limit": limit, "offset": 0})

    def session(self, ref: str) -> Json:
        return self._json("GET", f"/session/{_quoted(ref)}")

    def session_after(self, ref: str, status: str, wait_s: float = WAIT_S) -> Json:
        """Waits up to `wait_s` seconds for a status other than the given one."""
        return self._json("GET", f"/session/{_quoted(ref)}", params={"wait_from": status, "wait_s": wait_s})

    def progress(self, ref: str) -> list[Json]:
        """The pulls that a session waits for."""
        items: list[Json] = self._json("GET", f"/session/{_quoted(ref)}/progress")["pulls"]
        return items

    def stop(self, ref: str, *, forced: bool) -> Json:
        return self._json("DELETE", f"/session/{_quoted(ref)}", params={"forced": str(forced).lower()})

    def resize(self, ref: str, body: Json) -> Json:
        return self._json("POST", f"/session/{_quoted(ref)}/resize", json=body, timeout=_ASKED)

    def restart(self, ref: str) -> Json:
        return self._json("POST", f"/session/{_quoted(ref)}/restart", timeout=_ASKED)

    def commit(self, ref: str, image: str) -> Json:
        return self._json("POST", f"/session/{_quoted(ref)}/commit", json={"image": image}, timeout=_LONG)

    def events(self, ref: str) -> list[Json]:
        items: list[Json] = self._json("GET", f"/session/{_quoted(ref)}/events")["items"]
        return items

    def execute(self, ref: str, command: list[str], timeout_s: float, kernel: str = "main1") -> Json:
        body = {"command": command, "timeout_s": timeout_s}
        timeout = httpx.Timeout(timeout_s + 30, connect=5.0)
        params = {"kernel": kernel}
        return self._json("POST", f"/session/{_quoted(ref)}/exec", json=body, params=params, timeout=timeout)

    def logs(self, ref: str) -> str:
        return self._request("GET", f"/session/{_quoted(ref)}/logs").text

    def read_logs(self, ref: str, params: Mapping[str, str]) -> Iterator[bytes]:
        with self._stream("GET", f"/session/{_quoted(ref)}/logs", params=params, timeout=_QUIET) as response:
            yield from response.iter_bytes()

    def follow_logs(self, ref: str, params: Mapping[str, str] | None = None) -> Iterator[str]:
        """Pieces of the log until the session's container has ended.

        A connection that breaks off is made again, behind the last piece that came; Unavailable if none comes again.
        """
        query, after, silent_since = {**(params or {}), "follow": "true"}, "", time.monotonic()
        while True:
            headers = {"Last-Event-ID": after} if after else {}
            path = f"/session/{_quoted(ref)}/logs"
            try:
                with self._stream("GET", path, params=query, headers=headers, timeout=_QUIET) as response:
                    for event, text in _log_events(response.iter_lines()):
                        after, silent_since = event, time.monotonic()
                        yield text
                    return
            except Unavailable:
                if not after or time.monotonic() - silent_since > _PATIENCE_S:
                    raise
                time.sleep(_AGAIN_S)

    def find_file(self, ref: str, path: str, kernel: str) -> Json:
        params = {"path": path, "stat": "true", "kernel": kernel}
        return self._json("GET", f"/session/{_quoted(ref)}/files", params=params)

    def download(self, ref: str, path: str, kernel: str) -> Iterator[bytes]:
        """A tar."""
        params = {"path": path, "kernel": kernel}
        with self._stream("GET", f"/session/{_quoted(ref)}/files", params=params, timeout=_QUIET) as response:
            yield from response.iter_raw()

    def upload(self, ref: str, folder: str, content: Iterator[bytes], kernel: str) -> Json:
        """`content` is a tar, unpacked in the folder."""
        params = {"path": folder, "kernel": kernel}
        headers = {"Content-Type": "application/x-tar"}
        return self._json(
            "PUT", f"/session/{_quoted(ref)}/files", params=params, content=content, headers=headers, timeout=_LONG
        )

    def socket(self, ref: str, path: str, params: list[tuple[str, str]]) -> Address:
        """Where a WebSocket of a session is, and what says who asks."""
        asked = self._http.build_request("GET", f"/session/{_quoted(ref)}/{path}", params=tuple(params))
        headers = dict(_who(self._profile))
        if self._profile.signed_in:
            headers["Authorization"] = self._request("GET", "/whoami").request.headers["Authorization"]
        elif self._profile.access_key and not self._profile.token:
            pair = f"{self._profile.access_key}:{self._profile.secret_key}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return Address(re.sub("^http", "ws", str(asked.url)), headers)

    def stats(self, ref: str | None = None) -> Json:
        """Of one session, else of all that run."""
        if ref is not None:
            return self._json("GET", f"/session/{_quoted(ref)}/stats")
        return self._json("GET", "/stats", params={"limit": 1000})

    def idle(self) -> Json:
        return self._json("GET", "/idle", params={"limit": 1000})

    def extend(self, ref: str, span: str) -> Json:
        return self._json("POST", f"/session/{_quoted(ref)}/extend", json={"for": span}, timeout=_ASKED)

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

    def remove_agent(self, agent_id: str) -> None:
        self._request("DELETE", f"/agent/{_quoted(agent_id)}")

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

    def policies(self, kind: str | None = None) -> list[Json]:
        items: list[Json] = self._json("GET", "/policy", params={"kind": kind} if kind else {})["items"]
        return items

    def policy(self, kind: str, name: str) -> Json:
        return self._json("GET", f"/policy/{kind}/{_quoted(name)}")

    def create_policy(self, body: Json) -> Json:
        return self._json("POST", "/policy", json=body)

    def change_policy(self, kind: str, name: str, body: Json) -> Json:
        return self._json("PATCH", f"/policy/{kind}/{_quoted(name)}", json=body)

    def remove_policy(self, kind: str, name: str) -> None:
        self._request("DELETE", f"/policy/{kind}/{_quoted(name)}")

    def quotas(self, scope: str | None = None, name: str | None = None) -> list[Json]:
        """Of oneself, or of one owner."""
        params = {"scope": scope, "name": name} if scope and name else {}
        items: list[Json] = self._json("GET", "/quota", params=params)["items"]
        return items

    def grants(self) -> list[Json]:
        items: list[Json] = self._json("GET", "/grant")["items"]
        return items

    def grant(self, body: Json) -> Json:
        return self._json("POST", "/grant", json=body)

    def revoke_grant(self, grant_id: str) -> None:
        self._request("DELETE", f"/grant/{_quoted(grant_id)}")

    def secrets(self) -> list[Json]:
        items: list[Json] = self._json("GET", "/secret")["items"]
        return items

    def put_secret(self, name: str, body: Json) -> Json:
        return self._json("PUT", f"/secret/{_quoted(name)}", json=body)

    def remove_secret(self, name: str, *, project: str | None, force: bool) -> None:
        params = {"force": str(force).lower()} | ({"project": project} if project else {})
        self._request("DELETE", f"/secret/{_quoted(name)}", params=params)

    def images(self) -> list[Json]:
        items: list[Json] = self._json("GET", "/image")["items"]
        return items

    def order_image(self, kind: str, body: Json) -> Json:
        """`pull` or `remove`, on many nodes."""
        return self._json("POST", f"/image/{kind}", json=body)

    def image_order(self, order_id: str) -> Json:
        return self._json("GET", f"/image/order/{_quoted(order_id)}")

    def allowed_images(self) -> list[Json]:
        items: list[Json] = self._json("GET", "/image/allowed")["items"]
        return items

    def allow_images(self, pattern: str, domain: str | None) -> Json:
        return self._json("POST", "/image/allowed", json={"pattern": pattern, "domain": domain})

    def disallow_images(self, pattern: str, domain: str | None) -> None:
        params = {"pattern": pattern} | ({"domain": domain} if domain else {})
        self._request("DELETE", "/image/allowed", params=params)

    def registries(self) -> list[Json]:
        items: list[Json] = self._json("GET", "/registry")["items"]
        return items

    def put_registry(self, host: str, body: Json) -> Json:
        return self._json("PUT", f"/registry/{_quoted(host)}", json=body)

    def remove_registry(self, host: str) -> None:
        self._request("DELETE", f"/registry/{_quoted(host)}")

    def tokens(self) -> Json:
        return self._json("GET", "/token")

    def create_token(self, body: Json) -> Json:
        return self._json("POST", "/token", json=body)

    def revoke_token(self, token_id: str) -> None:
        self._request("DELETE", f"/token/{_quoted(token_id)}")

    def audit(self, *, limit: int, **which: str | None) -> Json:
        return self._json("GET", "/audit", params={"limit": limit, **_given(which)})

    def export_audit(self, **which: str | None) -> Iterator[str]:
        """JSON lines, as they come."""
        timeout = httpx.Timeout(60.0, connect=5.0)
        try:
            with self._http.stream("GET", "/audit/export", params=_given(which), timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    raise _problem(response)
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise self._no_answer(error) from None

    def verify_audit(self, expect: str | None) -> Json:
        return self._json("GET", "/audit/verify", params=_given({"expect": expect}), timeout=_LONG)

    def log_in(self, email: str, password: str, otp: str = "") -> Json:
        return self._json("POST", "/auth/login", json={"email": email, "password": password, "otp": otp})

    def exchange(self, code: str) -> Json:
        return self._json("POST", "/auth/oidc/exchange", json={"code": code})

    def log_out(self, *, everywhere: bool) -> Json:
        return self._json("POST", "/auth/logout", json={"all": everywhere})

    def change_password(self, old: str, new: str) -> None:
        self._request("POST", "/auth/password", json={"old": old, "new": new})

    def change_expired(self, email: str, old: str, new: str, otp: str) -> None:
        self._request("POST", "/auth/password-expired", json={"email": email, "old": old, "new": new, "otp": otp})

    def start_codes(self) -> Json:
        return self._json("POST", "/auth/totp")

    def confirm_codes(self, otp: str) -> None:
        self._request("POST", "/auth/totp/confirm", json={"otp": otp})

    def end_codes(self, otp: str) -> None:
        self._request("DELETE", "/auth/totp", json={"otp": otp})

    def is_ready(self) -> bool:
        try:
            return self._http.get("/health/ready", timeout=3.0).status_code == 200
        except httpx.TransportError:
            return False

    @contextmanager
    def _stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        try:
            with self._http.stream(method, path, **options) as response:
                if response.is_error:
                    response.read()
                    raise _problem(response)
                yield response
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._no_answer(error) from None

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


def _auth(profile: Profile) -> httpx.Auth | None:
    if profile.signed_in:
        return SignedIn(profile.endpoint)
    return httpx.BasicAuth(profile.access_key, profile.secret_key) if profile.access_key and not profile.token else None


def _who(profile: Profile) -> dict[str, str]:
    """The headers that say who asks and for whom, beside a key pair."""
    said = {"Authorization": f"Bearer {profile.token}"} if profile.token else {}
    return said | ({"X-Moorage-Act-As": profile.act_as} if profile.act_as else {})


def _given(params: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}


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


def _log_events(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """(id, text) of each piece, until the stream says that it is over."""
    event, data, name = "", "", ""
    for line in lines:
        if line.startswith("event:"):
            event = line[6:].strip()
        elif line.startswith("id:"):
            name = line[3:].strip()
        elif line.startswith("data:"):
            data += line[5:].strip()
        elif not line:
            if event == "end":
                return
            if event == "log":
                yield name, str(json.loads(data)["text"])
            event, data = "", ""
    raise Unavailable("the log stream broke off")


def _quoted(ref: str) -> str:
    return httpx.URL("/").join(f"/{ref.replace('/', '%2F')}").raw_path.decode()[1:]
