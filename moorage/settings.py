"""Every setting, read once from the environment (`MOORAGE_*`) into one frozen object. docs/operations.md lists them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from moorage.domain.errors import InvalidRequest
from moorage.domain.network import DEFAULT_POOL, checked_networks, checked_pool

# Read by the command-line client, not by the servers (moorage/cli/profile.py).
CLIENT_VARIABLES = {
    "MOORAGE_ENDPOINT", "MOORAGE_ACCESS_KEY", "MOORAGE_SECRET_KEY", "MOORAGE_TOKEN", "MOORAGE_ACT_AS",
    "MOORAGE_CONFIG_DIR",
}  # fmt: skip


def _pool(text: str) -> str:
    return str(checked_pool(text))


def _networks(text: str) -> str:
    return ",".join(checked_networks(text))


class Settings(BaseSettings):
    """Settings of the server roles. Keys have no defaults: a role without them refuses to start."""

    model_config = SettingsConfigDict(env_prefix="MOORAGE_", frozen=True, extra="forbid")

    cluster: str = Field(
        "moorage", pattern=r"^[A-Za-z0-9_.-]{1,63}$", description="name of the cluster; two may share a Docker engine"
    )
    database_url: str = Field("", description="PostgreSQL 15 or newer, as postgresql://user:password@host/database")
    temporal_address: str = Field("127.0.0.1:7233", description="host:port of Temporal's frontend")
    temporal_namespace: str = Field("default", description="Temporal namespace")
    temporal_api_key: str = Field("", description="API key for Temporal Cloud; turns TLS on")
    temporal_ui_url: str = Field("", description="address of Temporal's Web UI, for links")
    payload_keys: str = Field(
        "", description="key ring for what goes to Temporal: id:hex32bytes, comma separated, the first one encrypts"
    )
    jwt_keys: str = Field(
        "",
        description="key ring for log-in tokens: id:secret of 32 bytes or more, comma separated, the first one signs",
    )
    access_lifetime_s: int = Field(900, ge=10, le=86400, description="how long an access token is valid")
    login_lifetime_s: int = Field(7 * 86400, ge=60, description="how long a log-in can be refreshed")
    login_attempts: int = Field(5, ge=1, le=1000, description="wrong passwords in a row before a user is locked")
    password_max_age_days: int = Field(0, ge=0, description="a password must be changed after so long; 0 is never")
    oidc_issuer: str = Field("", description="OpenID Connect provider; empty is none")
    oidc_client_id: str = Field("", description="what the provider calls this cluster")
    oidc_client_secret: str = Field("", description="the secret that the provider gave for it")
    oidc_redirect_uri: str = Field("", description="https://HOST/auth/oidc/callback, as registered with the provider")
    oidc_scopes: str = Field("openid email profile", description="what is asked of the provider")
    oidc_claims: str = Field("", description="JSON: what the provider's claims say about domain, projects and roles")
    oidc_link_by_email: bool = Field(False, description="a verified e-mail address logs in the local user who has it")
    dataplane_key: str = Field("", description="secret shared by the API and the agents, signs data plane tokens")

    api_host: str = Field("127.0.0.1", description="address the API listens on")
    api_port: int = Field(8090, description="port the API listens on")
    max_body_bytes: int = Field(1024 * 1024, description="largest request body")
    max_upload_bytes: int = Field(
        10 * 1024**3, ge=0, description="largest archive of files that may be sent into a session at once"
    )
    trusted_proxies: str = Field(
        "", description="addresses and networks (CIDR), comma separated, whose X-Forwarded-For is believed"
    )
    rate_limit_storage: str = Field(
        "async+memory://", description="where requests are counted; async+redis://host:port for several replicas"
    )
    anonymous_rate_limit: int = Field(
        600, ge=0, description="requests in 60 s from one address without authentication; 0 is no limit"
    )

    network_pool: Annotated[str, AfterValidator(_pool)] = Field(
        DEFAULT_POOL, description="where the networks of gangs are taken from; no address of a node may lie in it"
    )

    agent_id: str = Field(default_factory=socket.gethostname, description="name of this node, unique in the cluster")
    agent_resource_group: str = Field("default", description="resource group that the node joins")
    agent_runtime: str = Field("docker", description="docker or simulated")
    agent_docker_host: str = Field(
        "", description="address of the Docker engine; empty means DOCKER_HOST, or its socket"
    )
    agent_cpu: str = Field("", description="cores to offer, for example 4; empty means what the host has")
    agent_mem: str = Field(
        "", description="memory to offer, for example 16g; empty means what the host has less 512 MiB"
    )
    agent_data_dir: Path = Field(Path("/var/lib/moorage-agent"), description="logs of ended sessions are kept here")
    agent_host: str = Field("127.0.0.1", description="address the data plane listens on")
    agent_port: int = Field(0, description="port the data plane listens on; 0 takes a free one")
    agent_advertised_url: str = Field("", description="data plane address for the API; empty means http://host:port")
    agent_simulated_devices: str = Field(
        "", description="accelerators to pretend, for example cuda.device=4:model=H100:memory=80g:numa=2,cuda.shares=2"
    )
    agent_cuda_offer: Literal["devices", "shares", "none"] = Field(
        "devices", description="how NVIDIA GPUs are given out: devices (whole ones), shares of each, or none"
    )
    agent_cuda_attach: Literal["auto", "device-request", "cdi"] = Field(
        "auto",
        description="how Docker attaches them: device-request (NVIDIA's hook), cdi, or auto: the one that is installed",
    )
    agent_namespaces: int = Field(
        2, ge=0, le=64, description="network namespaces kept ready, so that a start is faster; 0 keeps none"
    )
    agent_overlay_address: str = Field(
        "", description="IPv4 address that other nodes reach this one at, for gangs over nodes; empty: the data plane's"
    )
    agent_egress_deny: Annotated[str, AfterValidator(_networks)] = Field(
        "", description="networks (CIDR), comma separated, that no session may reach, for example the control plane's"
    )
    agent_image_max_age_h: float = Field(
        0, ge=0, description="images that the agent pulled and nobody used for so many hours are removed; 0 is never"
    )
    agent_image_disk_percent: float = Field(
        0, ge=0, lt=100, description="while the images' disk is fuller, unused images that it pulled go; 0 is never"
    )
    agent_log_bytes: int = Field(4 * 1024 * 1024, description="log kept of each session: half head, half tail")
    agent_log_days: float = Field(30, ge=0, description="kept logs are removed after so many days; 0 is never")
    agent_disk_bytes: int = Field(
        0, ge=0, description="what a container may write to its own disk before it is killed; 0 sets no limit"
    )
    agent_streams_per_kernel: int = Field(
        32, ge=1, description="streams of one kernel at once: logs that are followed, terminals, files, ports"
    )
    agent_streams: int = Field(512, ge=1, description="the same of all kernels of the node")
    agent_fence_s: float = Field(20.0, description="without contact for so long, the agent stops its requeue sessions")

    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    log_format: str = Field("json", description="json or console")


def load_settings() -> Settings:
    """The settings of this process. An unknown MOORAGE_* variable is refused, so that a typing error is not silent."""
    known = {f"MOORAGE_{name.upper()}" for name in Settings.model_fields} | CLIENT_VARIABLES
    unknown = sorted(name for name in os.environ if name.startswith("MOORAGE_") and name not in known)
    if unknown:
        raise InvalidRequest(
            f"unknown setting {', '.join(unknown)}; docs/operations.md lists all", code="unknown-setting"
        )
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]  # what was written may be a secret
        name = "MOORAGE_" + "_".join(str(part) for part in first["loc"]).upper()
        raise InvalidRequest(f"{name}: {first['msg']}; docs/operations.md lists all", code="wrong-setting") from None


def require(settings: Settings, *names: str) -> None:
    """Refuses to start a role that lacks a setting it can't do without."""
    missing = [f"MOORAGE_{name.upper()}" for name in names if not getattr(settings, name)]
    if missing:
        raise InvalidRequest(f"set {', '.join(missing)}: this role can't start without it", code="missing-setting")
