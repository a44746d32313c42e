"""The networks of sessions on this node.

Sessions of one kernel share one bridge without reaching each other: a bridge each would cost half a start, and Docker
has room for thirty. A gang has a bridge of its own on each of its nodes, and an overlay between them.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from docker.errors import APIError, NotFound

from agent_worker.runtimes import overlay
from agent_worker.runtimes.contract import CreateRefused
from agent_worker.runtimes.egress import BRIDGES, GANG_INTERNAL, GANG_OPEN, INTERNAL, OPEN
from agent_worker.runtimes.programs import ProgramFailed
from moorage.contracts import names
from moorage.domain.network import KernelNetwork, NetworkPolicy, addresses_of, number_of
from moorage.domain.session import KernelSpec

# Another agent of the same Docker engine may have made it for a container that it is about to make.
_YOUNG_S = 60.0
_SHOWS_S = 2.0
# A name server that answers nobody: Docker's own would ask the world for a session that may not.
_NO_NAMES = ("127.0.0.1",)


@dataclass(frozen=True, slots=True)
class Joined:
    """What a container is told: Docker's network (or `none`), its address there, and who else is."""

    name: str
    address: str = ""
    hosts: Mapping[str, str] = field(default_factory=dict)
    name_servers: tuple[str, ...] = ()


def network(spec: KernelSpec, namespace: str | None, joined: Joined) -> tuple[dict[str, Any], dict[str, Any]]:
    """For the container and for its host configuration: a namespace made ahead, else its network; never the host's.

    A container that joins a namespace has that one's host name.
    """
    if namespace is not None:
        return {}, {"network_mode": f"container:{namespace}"}
    for_container: dict[str, Any] = {"hostname": spec.hostname}
    for_host: dict[str, Any] = {"network_mode": joined.name}
    if joined.address:
        place = {"IPAMConfig": {"IPv4Address": joined.address}}
        for_container["networking_config"] = {"EndpointsConfig": {joined.name: place}}
    if joined.hosts:
        for_host["extra_hosts"] = dict(joined.hosts)
    if joined.name_servers:
        for_host["dns"] = list(joined.name_servers)
    return for_container, for_host


class Networks:
    """All of it blocks. `node` is this agent's, the networks of gangs are the cluster's: agents may share an engine."""

    def __init__(self, client: Any, *, cluster: str, node: str) -> None:
        self._client = client
        self._cluster = cluster
        self._node = node
        self._there: set[str] = set()  # networks that were looked for and found
        self._of_gangs: set[str] = set()  # those that go with their last container
        self._at_work: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def joined(self, spec: KernelSpec) -> Iterator[Joined]:
        """Its network is there, and stays until its container is made."""
        given = spec.network or KernelNetwork()
        if given.policy == NetworkPolicy.NONE:
            yield Joined("none")
        elif not given.subnet:
            inside = given.policy == NetworkPolicy.INTERNAL
            yield Joined(self.shared(internal=inside), name_servers=_NO_NAMES if inside else ())
        else:
            name = self._gang_name(spec.session_id, spec.attempt)
            with self._lock:
                self._at_work[name] += 1
            try:
                self._ensure_gang(name, spec, given)
                servers = _NO_NAMES if given.policy == NetworkPolicy.INTERNAL else ()
                yield Joined(name, given.address, addresses_of(given.subnet, spec.cluster), servers)
            finally:
                with self._lock:
                    self._at_work -= Counter([name])

    def shared(self, *, internal: bool = False) -> str:
        """The name of the bridge for sessions of one kernel."""
        digest = hashlib.sha256(self._node.encode()).hexdigest()[:10]
        name = f"moorage-{digest}-internal" if internal else f"moorage-{digest}"
        if name in self._there:
            return name
        with self._lock:
            if name not in self._there:
                self._make(
                    name,
                    f"{BRIDGES}{INTERNAL if internal else OPEN}{digest}",
                    internal=internal,
                    labels={names.LABEL_NETWORK: self._node},
                    options={"com.docker.network.bridge.enable_icc": "false"},
                )
                self._there.add(name)
        return name

    def forget(self) -> None:
        """Each is looked for before it is used again: somebody may have removed it."""
        self._there.clear()

    def leave(self, session_id: str, attempt: int) -> None:
        """A container of a session is gone; with the last one of a gang its network goes. Others have none."""
        name = self._gang_name(session_id, attempt)
        if name in self._of_gangs:
            with self._lock:
                if not self._at_work[name] and (session_id, attempt) not in self._inhabited():
                    self._remove(name)

    @property
    def has_gangs(self) -> bool:
        """Whether some were made here and not removed since."""
        return bool(self._of_gangs)

    def sweep(self) -> bool:
        """Networks and overlays without a container are removed, and an overlay that is missing is made again.

        Whether there were any.
        """
        gangs = self._gangs()
        inhabited, now = self._inhabited() if gangs else set(), time.time()
        for found in gangs:
            name, labels = str(found["Name"]), found["Labels"]
            lives = (labels[names.LABEL_SESSION], int(labels[names.LABEL_ATTEMPT])) in inhabited
            with self._lock:
                if lives:
                    self._of_gangs.add(name)
                    self._mend(found)
                elif not self._at_work[name] and now - _made_at(found) > _YOUNG_S:
                    self._remove(name)
        return bool(gangs)

    def close(self) -> None:
        """The shared ones go, if no container of this agent is left that could need them."""
        label = f"{names.LABEL_AGENT}={self._node}"
        if not self._client.containers(all=True, filters={"label": label}):
            for found in self._client.networks(filters={"label": f"{names.LABEL_NETWORK}={self._node}"}):
                with suppress(APIError):
                    self._client.remove_network(found["Id"])

    def _ensure_gang(self, name: str, spec: KernelSpec, given: KernelNetwork) -> None:
        with self._lock:
            if name in self._there:
                return
            self._of_gangs.add(name)
            try:
                self._make_gang(name, spec, given)
            except ProgramFailed as error:
                self._remove(name)
                raise CreateRefused(f"no network between this gang's nodes: {error}") from None
            self._there.add(name)

    def _make_gang(self, name: str, spec: KernelSpec, given: KernelNetwork) -> None:
        if "" in (given.underlay, *given.peers) and given.peers:
            raise ProgramFailed("a node has no address for overlays; set MOORAGE_AGENT_OVERLAY_ADDRESS there")
        peers = [peer for peer in given.peers if peer != given.underlay]  # those share this node's engine
        mtu = overlay.mtu_towards(peers[0]) if peers else 0
        inside = given.policy == NetworkPolicy.INTERNAL
        bridge = f"{BRIDGES}{GANG_INTERNAL if inside else GANG_OPEN}{number_of(given.subnet):06x}"
        self._make(
            name,
            bridge,
            internal=inside,
            labels={
                names.LABEL_NETWORK: self._cluster,
                names.LABEL_SESSION: spec.session_id,
                names.LABEL_ATTEMPT: str(spec.attempt),
                names.LABEL_UNDERLAY: " ".join([given.underlay, *peers]) if peers else "",
            },
            options={"com.docker.network.driver.mtu": str(mtu)} if mtu else {},
            ipam={"Driver": "default", "Config": [{"Subnet": given.subnet, "Gateway": given.gateway}]},
        )
        if peers:
            owner = f"{spec.session_id}/{spec.attempt}"
            overlay.connect(number_of(given.subnet), bridge, given.underlay, peers, mtu=mtu, owner=owner)

    def _make(
        self,
        name: str,
        bridge: str,
        *,
        internal: bool,
        labels: dict[str, str],
        options: dict[str, str],
        ipam: dict[str, Any] | None = None,
    ) -> None:
        if self._is_there(name):
            return
        try:
            self._client.create_network(
                name,
                driver="bridge",
                options={"com.docker.network.bridge.name": bridge, **options},
                ipam=ipam,
                check_duplicate=True,
                internal=internal,
                labels=labels,
            )
        except APIError as error:
            # Another agent of this engine may have been quicker, and its network does not show at once.
            deadline = time.monotonic() + _SHOWS_S
            while not self._is_there(name):
                if time.monotonic() > deadline:
                    raise CreateRefused(f"no network for the session: {error.explanation or error}") from None
                time.sleep(0.05)

    def _is_there(self, name: str) -> bool:
        with suppress(NotFound):
            self._client.inspect_network(name)
            return True
        return False

    def _mend(self, found: Mapping[str, Any]) -> None:
        underlay, *peers = found["Labels"].get(names.LABEL_UNDERLAY, "").split() or [""]
        number = number_of(found["IPAM"]["Config"][0]["Subnet"])
        if peers and number not in overlay.numbers():
            owner = f"{found['Labels'][names.LABEL_SESSION]}/{found['Labels'][names.LABEL_ATTEMPT]}"
            mtu = int(found["Options"]["com.docker.network.driver.mtu"])
            bridge = found["Options"]["com.docker.network.bridge.name"]
            overlay.connect(number, bridge, underlay, peers, mtu=mtu, owner=owner)

    def _remove(self, name: str) -> None:
        """It stays while a container is in it, for the last one to take along."""
        self._there.discard(name)
        with suppress(NotFound):
            found = self._client.inspect_network(name)
            if found["Containers"]:
                return
            self._of_gangs.discard(name)
            if found["Labels"].get(names.LABEL_UNDERLAY):
                with suppress(ProgramFailed):
                    overlay.disconnect(number_of(found["IPAM"]["Config"][0]["Subnet"]))
            self._client.remove_network(found["Id"])

    def _gangs(self) -> list[dict[str, Any]]:
        found = self._client.networks(filters={"label": f"{names.LABEL_NETWORK}={self._cluster}"})
        return [one for one in found if one["Labels"].get(names.LABEL_ATTEMPT, "").isdecimal()]

    def _inhabited(self) -> set[tuple[str, int]]:
        """(session, attempt) of every container on this engine."""
        found = self._client.containers(all=True, filters={"label": list(names.LABELS)})
        return {
            (one["Labels"][names.LABEL_SESSION], int(one["Labels"][names.LABEL_ATTEMPT]))
            for one in found
            if one["Labels"][names.LABEL_ATTEMPT].isdecimal()
        }

    def _gang_name(self, session_id: str, attempt: int) -> str:
        return f"moorage-{self._cluster}-{session_id}-{attempt}"


def _made_at(found: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(str(found["Created"])).timestamp()
