"""Where the API is and who one is there: the environment first, then client.toml."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from moorage.domain.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Profile:
    """Who one is: a personal access token, else a key pair. `act_as` is the e-mail address of whoever is acted for."""

    endpoint: str
    access_key: str = ""
    secret_key: str = ""
    token: str = ""
    act_as: str = ""
    signed_in: bool = False  # by `moor login`; moorage.cli.signed_in holds the tokens


_NAMES = ("endpoint", "access_key", "secret_key", "token", "act_as")


def profile_path() -> Path:
    """client.toml in MOORAGE_CONFIG_DIR, else in the user's configuration folder."""
    if folder := os.environ.get("MOORAGE_CONFIG_DIR"):
        return Path(folder) / "client.toml"
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "moorage" / "client.toml"


def load_profile() -> Profile:
    """The profile of this process. Says what is missing and how to get it."""
    stored = read_toml(profile_path())
    here = {name: os.environ.get(f"MOORAGE_{name.upper()}", "") for name in _NAMES}
    values = {name: here[name] or stored.get(name, "") for name in _NAMES}
    endpoint = values["endpoint"].rstrip("/")
    if not here["access_key"] and not here["token"] and is_signed_in(endpoint, stored):
        return Profile(endpoint, act_as=values["act_as"], signed_in=True)
    if here["access_key"] and not here["token"]:
        values["token"] = ""  # what this shell says stands before what the file says
    wanted = ("endpoint",) if values["token"] else ("endpoint", "access_key", "secret_key")
    missing = [name for name in wanted if not values[name]]
    if missing:
        raise InvalidRequest(
            f"no {', '.join(missing)} known: neither MOORAGE_* variables nor {profile_path()}",
            code="no-profile",
            hint="start a cluster here with `moor up`, log in with `moor login`, or set MOORAGE_ENDPOINT, and"
            " MOORAGE_TOKEN or MOORAGE_ACCESS_KEY and MOORAGE_SECRET_KEY",
        )
    return Profile(endpoint, values["access_key"], values["secret_key"], values["token"], values["act_as"])


def is_signed_in(endpoint: str, stored: dict[str, str]) -> bool:
    """Whether `moor login` keeps tokens, and for this API: no other ever sees them."""
    return bool(stored.get("refresh_token")) and stored.get("login_endpoint") == endpoint.rstrip("/")


def endpoint_of_profile() -> str:
    """Where the API is, for those who have no keys yet."""
    endpoint = os.environ.get("MOORAGE_ENDPOINT") or read_toml(profile_path()).get("endpoint", "")
    if not endpoint:
        raise InvalidRequest("where is the API?", code="no-profile", hint="moor login --endpoint https://HOST")
    return endpoint.rstrip("/")


def read_toml(path: Path) -> dict[str, str]:
    """The strings in a flat TOML file; empty when there is no file."""
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InvalidRequest(f"{path} can't be read: {error}", code="bad-profile") from None
    return {name: str(value) for name, value in content.items()}


def write_toml(path: Path, values: dict[str, str]) -> None:
    """Replaces the file at once, readable by its owner alone (0600): it holds secrets."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    draft.replace(path)
