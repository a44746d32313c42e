"""`moor up`: a whole cluster on one machine, as one process with supervised children."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable

import httpx
import psutil

from moorage.cli.profile import profile_path, read_toml, write_toml
from moorage.cli.up import temporal
from moorage.cli.up.before import check_docker, check_ports, check_request
from moorage.cli.up.part import Part
from moorage.cli.up.postgres import Postgres
from moorage.cli.up.state import Place, Ports, RunRecord, await_leftovers, birth_of, load_keys, take_lock
from moorage.db.engine import migrate
from moorage.db.tenancy import ensure_admin
from moorage.domain.errors import Unavailable
from moorage.settings import CLIENT_VARIABLES

ADMIN_EMAIL = "admin@localhost"
_READY_S = 60.0
_KEPT_FOR_THE_HOST = 512 * 1024**2
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_cluster(place: Place, ports: Ports, *, runtime: str, say: Callable[[str], None]) -> None:
    """Starts everything or nothing, runs until SIGTERM, SIGINT or SIGHUP, and leaves no process behind."""
    check_request(ports, runtime)
    place.make()
    lock = take_lock(place)
    try:
        await_leftovers(place)
        check_ports(ports)
        if runtime == "docker":
            check_docker()
        asyncio.run(Cluster(place, ports, runtime=runtime, say=say).run())
    finally:
        os.close(lock)


class Cluster:
    """The parts in the order of their start."""

    def __init__(self, place: Place, ports: Ports, *, runtime: str, say: Callable[[str], None]) -> None:
        self._place = place
        self._ports = ports
        self._runtime = runtime
        self._say = say
        self._keys = load_keys(place)
        self._postgres = Postgres(place)
        self._parts: list[Part] = []
        self._stop_asked = asyncio.Event()
        self._record = RunRecord(
            pid=os.getpid(),
            born=birth_of(os.getpid()),
            started=birth_of(os.getpid()),
            ready=False,
            endpoint=f"http://127.0.0.1:{ports.api}",
            web_ui=f"http://127.0.0.1:{ports.web_ui}",
            temporal=f"127.0.0.1:{ports.temporal}",
            database_url=self._postgres.database_url,
            runtime=runtime,
            agents=ports.agents,
            cluster=self._keys["cluster"],
        )

    async def run(self) -> None:
        for number in _STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._stop_asked.set)
        stop_asked = asyncio.create_task(self._stop_asked.wait())
        work = asyncio.create_task(self._start_and_supervise())
        try:
            await asyncio.wait({stop_asked, work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop_asked.cancel()
            work.cancel()
            outcome = (await asyncio.gather(work, return_exceptions=True))[0]
            await self._stop_all()
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise _first(outcome)

    async def _start_and_supervise(self) -> None:
        await self._start_stores()
        await self._make_tables_and_admin()
        for part in self._roles():
            await self._start(part)
        async with asyncio.TaskGroup() as group:
            for part in self._parts:
                group.create_task(part.keep_alive(changed=self._write_record, say=self._say))
            await self._until_ready()
            self._record.ready = True
            self._write_record()
            self._say_addresses()

    async def _start_stores(self) -> None:
        store = temporal.temporal_part(self._place, self._ports)
        await self._start(store)
        await asyncio.to_thread(self._postgres.prepare)
        database = self._postgres.part()
        await self._start(database)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._postgres.until_ready(database))
            group.create_task(temporal.until_ready(store, self._record.temporal))

    async def _make_tables_and_admin(self) -> None:
        await asyncio.to_thread(migrate, self._record.database_url)
        # The file first: an administrator whose keys nobody knows would lock everybody out.
        admin = {
            "endpoint": self._record.endpoint,
            "access_key": self._keys["admin_access_key"],
            "secret_key": self._keys["admin_secret_key"],
            "email": ADMIN_EMAIL,
            "password": self._keys["admin_password"],
        }
        if not self._place.admin_file.exists():
            write_toml(self._place.admin_file, admin)
        await ensure_admin(self._record.database_url, self._keys["payload_keys"], admin)
        self._write_profile()

    def _write_profile(self) -> None:
        admin = read_toml(self._place.admin_file)
        if not admin:
            return self._say(f"no keys in {self._place.admin_file}: the administrator was made elsewhere")
        if admin["endpoint"] != self._record.endpoint:
            admin["endpoint"] = self._record.endpoint
            write_toml(self._place.admin_file, admin)
        path = profile_path()
        present = read_toml(path).get("endpoint", "")
        if present and "//127.0.0.1:" not in present:
            return self._say(f"{path} is for {present} and stays; this cluster's keys are in {self._place.admin_file}")
        return write_toml(path, {name: admin[name] for name in ("endpoint", "access_key", "secret_key")})

    def _roles(self) -> list[Part]:
        numbers = range(1, self._ports.agents + 1)
        return [
            self._role("api", "api.main", {}),
            self._role("worker", "workers.control", {}),
            *(self._role(f"node{number}", "agent_worker.main", self._agent_settings(number)) for number in numbers),
        ]

    def _role(self, name: str, module: str, settings: dict[str, str]) -> Part:
        return Part(
            name,
            [sys.executable, "-P", "-m", module],
            log=self._place.logs / f"{name}.log",
            cwd=self._place.folder,
            env=_outer_environment() | self._common_settings() | settings,
        )

    def _common_settings(self) -> dict[str, str]:
        return {
            "MOORAGE_CLUSTER": self._keys["cluster"],
            "MOORAGE_DATABASE_URL": self._record.database_url,
            "MOORAGE_TEMPORAL_ADDRESS": self._record.temporal,
            "MOORAGE_TEMPORAL_UI_URL": self._record.web_ui,
            "MOORAGE_PAYLOAD_KEYS": self._keys["payload_keys"],
            "MOORAGE_JWT_KEYS": self._keys["jwt_keys"],
            "MOORAGE_DATAPLANE_KEY": self._keys["dataplane_key"],
            "MOORAGE_API_HOST": "127.0.0.1",
            "MOORAGE_API_PORT": str(self._ports.api),
        }

    def _agent_settings(self, number: int) -> dict[str, str]:
        folder = self._place.folder / "agents" / f"node{number}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings = {
            "MOORAGE_AGENT_ID": f"node{number}",
            "MOORAGE_AGENT_RUNTIME": self._runtime,
            "MOORAGE_AGENT_DATA_DIR": str(folder),
            "MOORAGE_AGENT_HOST": "127.0.0.1",
            "MOORAGE_AGENT_PORT": str(self._ports.agent(number)),
        }
        if self._runtime == "docker" and self._ports.agents > 1:
            settings |= _share_of_host(self._ports.agents)
            if number > 1:  # a GPU is one agent's: the ledger keeps each node's apart
                settings["MOORAGE_AGENT_CUDA_OFFER"] = "none"
        return settings

    async def _start(self, part: Part) -> None:
        self._parts.append(part)
        await part.start()
        self._write_record()

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + _READY_S
        keys = read_toml(self._place.admin_file)
        auth = httpx.BasicAuth(keys.get("access_key", ""), keys.get("secret_key", ""))
        async with httpx.AsyncClient(base_url=self._record.endpoint, auth=auth, timeout=5.0, trust_env=False) as client:
            while missing := await self._missing(client, check_agents=bool(keys)):
                if time.monotonic() > deadline:
                    raise Unavailable(f"not ready after {_READY_S:g} s: {missing}\n{self._complaints()}")
                await asyncio.sleep(0.1)

    async def _missing(self, client: httpx.AsyncClient, *, check_agents: bool) -> str:
        """What is still missing, in words; empty when all is ready."""
        try:
            ready = await client.get("/health/ready")
            if ready.status_code != 200:
                return f"the API is not ready ({ready.status_code}: {ready.text[:200]})"
            if not check_agents:
                return ""
            answer = await client.get("/agent")
            if answer.status_code != 200:
                return f"the list of agents answers {answer.status_code}"
            alive = {agent["id"] for agent in answer.json()["items"] if agent["status"] == "ALIVE"}
        except httpx.TransportError as error:
            return f"the API does not answer ({error})"
        return ", ".join(f"node{n} is not there" for n in range(1, self._ports.agents + 1) if f"node{n}" not in alive)

    def _complaints(self) -> str:
        shaky = [part for part in self._parts if part.dead or part.state.restarts]
        return "\n".join(f"--- {part.name}, last lines of {part.log}:\n{part.last_words()}" for part in shaky)

    def _write_record(self) -> None:
        self._record.parts = [part.state for part in self._parts]
        self._record.write(self._place)

    def _say_addresses(self) -> None:
        self._say(f"ready in {time.time() - self._record.started:.1f} s, {self._ports.agents} {self._runtime} node(s)")
        for line in self._record.addresses(self._place):
            self._say(line)

    async def _stop_all(self) -> None:
        """The nodes, then what they speak to, then what that keeps its data in; each kind at once."""
        stores = ("temporal", "postgres")
        agents = [part for part in self._parts if part.name.startswith("node")]
        roles = [part for part in self._parts if part not in agents and part.name not in stores]
        for kind in (agents, roles, self._parts):
            await asyncio.gather(*(part.stop() for part in kind))
        self._place.run_file.unlink(missing_ok=True)


def _outer_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in CLIENT_VARIABLES}


def _share_of_host(agents: int) -> dict[str, str]:
    millicores = (os.cpu_count() or 1) * 1000 // agents
    memory = max(psutil.virtual_memory().total - _KEPT_FOR_THE_HOST, 0) // agents
    return {"MOORAGE_AGENT_CPU": f"{millicores}m", "MOORAGE_AGENT_MEM": str(memory)}


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
