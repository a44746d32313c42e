"""Images on a node: Docker against a real registry on this machine, and what the simulated runtime pretends of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.errors import APIError
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from agent_worker.activities import NodeKernels
from agent_worker.images.contract import ConnectionBroken, Credential, Disk, Line, NoRoom
from agent_worker.images.node import NodeImages
from agent_worker.images.pulls import Pulls
from agent_worker.kept_logs import KeptLogs
from agent_worker.runtimes.contract import ImageMissing, PullFailed, Runtime
from agent_worker.runtimes.docker import DockerRuntime
from agent_worker.runtimes.docker_images import refusal
from agent_worker.runtimes.simulated_images import SimulatedImages
from moorage.contracts import activities as contract
from moorage.contracts import images as image_contract
from moorage.contracts.activities import Pulled, PullImage, PullMode
from moorage.contracts.images import RemoveImage
from moorage.domain.ids import new_id
from moorage.domain.images import pinned
from tests.agent.specs import IMAGE, a_spec
from tests.support.registry import Image, Registry, a_registry, an_image, saved_image

HOUR = 3600.0
docker_only = pytest.mark.docker


class Clock:
    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture(scope="module")
def shelf(engine_client: docker.APIClient) -> Iterator[tuple[Registry, Image]]:
    """One registry for all; what was pulled from it is removed at the end."""
    with a_registry() as registry:
        yield registry, saved_image(engine_client, IMAGE)
        for image in engine_client.images():
            for name in [*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ())]:
                if name.startswith(registry.address):
                    with suppress(APIError):
                        engine_client.remove_image(name, force=True)


@pytest.fixture
def registry(shelf: tuple[Registry, Image]) -> Iterator[Registry]:
    yield shelf[0]
    found = shelf[0]
    found.password, found.broken, found.refuses = "", 0, 0
    if found.released is not None:
        found.released.set()
    found.released, found.held = None, 0
    found.asked.clear()


@pytest.fixture
def pushed(registry: Registry, shelf: tuple[Registry, Image]) -> Callable[[], tuple[str, str]]:
    """Puts an image that nobody has yet into the registry: its name and digest."""

    def push() -> tuple[str, str]:
        repository = f"moorage-test/{new_id()}"
        digest = registry.push(repository, "1", an_image(shelf[1], seed=time.time_ns()))
        return registry.name(repository), digest

    return push


@dataclass
class World:
    """A runtime with names of images that can be had, that need a password, and that are nowhere."""

    runtime: Runtime
    image: str
    private: Callable[[], tuple[str, str]]  # the name, and the right password
    missing: str


@pytest.fixture(params=["simulated", pytest.param("docker", marks=pytest.mark.docker)])
def world(request: pytest.FixtureRequest) -> World:
    runtime: Runtime = request.getfixturevalue(f"{request.param}_runtime")
    if request.param == "simulated":
        return World(runtime, "slow/app:0.1", lambda: ("private/app:1", "right"), "missing/app:1")
    registry: Registry = request.getfixturevalue("registry")
    push: Callable[[], tuple[str, str]] = request.getfixturevalue("pushed")

    def private() -> tuple[str, str]:
        registry.password = "open sesame"
        return push()[0], registry.password

    return World(runtime, push()[0], private, registry.name("moorage-test/nowhere"))


async def test_a_pull_says_how_far_it_is_and_then_the_image_is_there(world: World) -> None:
    images, seen = NodeImages(world.runtime.store), []
    pulling = asyncio.create_task(images.pull(PullImage(world.image)))
    async with asyncio.timeout(30):
        while not pulling.done():
            seen += images.progress()
            await asyncio.sleep(0.001)
    assert [one.image for one in seen][:1] == [world.image]
    assert max(one.layers for one in seen) >= 3
    assert max(one.bytes_total for one in seen) > 1_000_000
    assert "layers" in max(seen, key=lambda one: one.bytes_done).words()
    assert images.progress() == []
    pulled = await pulling
    found = await world.runtime.store.find(world.image)
    assert found is not None
    assert (found.image_id, f"{world.image.rpartition(':')[0]}@{pulled.digest}" in found.digests) == (
        pulled.image_id,
        True,
    )
    assert world.image in await NodeImages(world.runtime.store).names()


async def test_what_is_on_the_node_is_pulled_again_only_when_that_is_asked_for(world: World) -> None:
    images = NodeImages(world.runtime.store)
    with pytest.raises(ImageMissing):
        await images.pull(PullImage(world.image, PullMode.LOOK))
    first = await images.pull(PullImage(world.image))
    assert await images.pull(PullImage(world.image, PullMode.LOOK)) == first
    assert await images.pull(PullImage(world.image, PullMode.ALWAYS)) == first


async def test_a_registry_that_wants_a_password_gives_nothing_without_the_right_one(world: World) -> None:
    images, (image, password) = NodeImages(world.runtime.store), world.private()
    with pytest.raises(PullFailed, match=r"no credentials for registry .*: moor admin registry add"):
        await images.pull(PullImage(image))
    with pytest.raises(PullFailed, match="does not take the credentials of robot") as refused:
        await images.pull(PullImage(image, username="robot", password="guessed"))
    assert "guessed" not in str(refused.value)
    assert (await images.pull(PullImage(image, username="robot", password=password))).image_id


async def test_an_image_that_is_nowhere_is_refused_for_good_with_the_words_of_the_registry(
    world: World, kept_logs: KeptLogs
) -> None:
    kernels = NodeKernels(world.runtime, kept_logs)
    with pytest.raises(ApplicationError) as refused:
        await ActivityEnvironment().run(kernels.pull_image, PullImage(world.missing))
    assert (refused.value.type, refused.value.non_retryable) == (contract.IMAGE_PULL_FAILED, True)
    assert world.missing in refused.value.message


async def test_an_image_that_a_container_has_is_not_removed_and_one_that_none_has_is(
    world: World, kept_logs: KeptLogs, agent_id: str
) -> None:
    images = NodeImages(world.runtime.store)
    await images.pull(PullImage(world.image))
    await world.runtime.create(a_spec(agent_id=agent_id, image=world.image))
    with pytest.raises(ApplicationError, match=r"is used by (session|container)") as refused:
        await ActivityEnvironment().run(images.remove_image, RemoveImage(world.image))
    assert refused.value.type == image_contract.IMAGE_IN_USE
    for container in await world.runtime.containers():
        await world.runtime.remove(container)
    assert await ActivityEnvironment().run(images.remove_image, RemoveImage(world.image))
    assert not await ActivityEnvironment().run(images.remove_image, RemoveImage(world.image))
    assert await world.runtime.store.find(world.image) is None


async def test_a_created_kernel_says_what_it_really_runs(world: World, kept_logs: KeptLogs, agent_id: str) -> None:
    kernels = NodeKernels(world.runtime, kept_logs)
    pulled = await ActivityEnvironment().run(kernels.pull_image, PullImage(world.image))
    spec = a_spec(agent_id=agent_id, image=pinned(world.image, pulled.digest))
    created = await ActivityEnvironment().run(kernels.create_kernel, spec)
    assert (created.image_id, created.image_digest) == (pulled.image_id, pulled.digest)


async def test_what_is_old_and_what_is_in_the_way_is_collected_and_nothing_else(
    world: World, agent_id: str, tmp_path: Path
) -> None:
    clock, file = Clock(), tmp_path / "images.json"
    await NodeImages(world.runtime.store, file, clock=clock).pull(PullImage(world.image))
    # Another process of the agent knows what the first one pulled; without its file it would leave it.
    images = NodeImages(world.runtime.store, file, max_age_h=2, clock=clock)
    before = await NodeImages(world.runtime.store).names()
    assert await images.collect() == []
    clock.ahead_s = HOUR
    assert await images.collect() == []
    spec = a_spec(agent_id=agent_id, image=world.image)
    await world.runtime.create(spec)
    clock.ahead_s = 9 * HOUR
    assert await NodeImages(world.runtime.store, tmp_path / "none", max_age_h=2, clock=clock).collect() == []
    assert await images.collect() == []  # a container has it, and so it counts as used
    for container in await world.runtime.containers():
        await world.runtime.remove(container)
    clock.ahead_s = 10 * HOUR
    assert await images.collect() == []
    clock.ahead_s = 12 * HOUR
    assert await images.collect() == [world.image]
    gone = set(before) - set(await NodeImages(world.runtime.store).names())
    assert {name.rpartition(":")[0].partition("@")[0] for name in gone} == {world.image.rpartition(":")[0]}


@docker_only
async def test_many_orders_for_one_image_are_one_pull_that_outlives_who_waits(
    docker_runtime: DockerRuntime, registry: Registry, pushed: Callable[[], tuple[str, str]]
) -> None:
    (image, digest), images = pushed(), NodeImages(docker_runtime.store)
    registry.released = threading.Event()
    orders = [asyncio.create_task(images.pull(PullImage(image))) for _ in range(8)]
    async with asyncio.timeout(20):
        while registry.held < 2:  # two layers of its own, half-way
            await asyncio.sleep(0.01)
        while images.progress_of(image).bytes_total < 4_000_000 or not images.progress_of(image).bytes_done:
            await asyncio.sleep(0.01)
    half = images.progress_of(image)
    assert (half.layers, len(images.progress())) == (3, 1)
    assert 0 < half.bytes_done / half.bytes_total < 0.6
    orders[0].cancel()
    registry.released.set()
    done = await asyncio.gather(*orders, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert {one.digest for one in done[1:] if isinstance(one, Pulled)} == {digest}
    loads = {name: count for name, count in registry.asked.items() if name != "manifest"}
    assert set(loads.values()) == {1}
    assert registry.asked["manifest"] <= 2  # whether it is there, and what it is


@docker_only
async def test_what_breaks_is_tried_again_and_complete_layers_are_not_loaded_twice(
    docker_runtime: DockerRuntime, registry: Registry, pushed: Callable[[], tuple[str, str]]
) -> None:
    (image, digest), images = pushed(), NodeImages(docker_runtime.store)
    registry.refuses, registry.broken = 2, 1  # the manifest twice, then a layer half-way
    notes: set[str] = set()
    pulling = asyncio.create_task(images.pull(PullImage(image)))
    async with asyncio.timeout(40):
        while not pulling.done():
            notes |= {one.note for one in images.progress() if one.note}
            await asyncio.sleep(0.02)
    assert (await pulling).digest == digest
    assert any("try 2 of 5 follows" in note for note in notes), notes
    assert any("retrying in" in note for note in notes), notes
    loads = [count for name, count in registry.asked.items() if name != "manifest"]
    assert sorted(loads)[-1] == 2
    assert sorted(loads)[0] == 1


@docker_only
async def test_a_pinned_image_stays_the_same_when_its_tag_moves(
    docker_runtime: DockerRuntime,
    registry: Registry,
    shelf: tuple[Registry, Image],
    pushed: Callable[[], tuple[str, str]],
    agent_id: str,
) -> None:
    (image, first), images = pushed(), NodeImages(docker_runtime.store)
    assert (await images.pull(PullImage(image))).digest == first
    repository = image.removeprefix(f"{registry.address}/").removesuffix(":1")
    second = registry.push(repository, "1", an_image(shelf[1], seed=time.time_ns()))
    assert (await images.pull(PullImage(image))).digest == first
    assert (await images.pull(PullImage(image, PullMode.ALWAYS))).digest == second
    old = await images.pull(PullImage(pinned(image, first)))
    assert old.digest == first
    started = await docker_runtime.create(a_spec(agent_id=agent_id, image=pinned(image, first)))
    assert await images.ran(started.container_id, image) == old


@docker_only
async def test_an_image_of_no_registry_has_an_id_and_no_digest(
    docker_runtime: DockerRuntime, kept_logs: KeptLogs, agent_id: str
) -> None:
    created = await ActivityEnvironment().run(
        NodeKernels(docker_runtime, kept_logs).create_kernel, a_spec(agent_id=agent_id)
    )
    assert created.image_id.startswith("sha256:")
    assert created.image_digest == ""


@docker_only
async def test_the_beginning_of_an_id_is_no_name(
    docker_runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    image_id = engine_client.inspect_image(IMAGE)["Id"].removeprefix("sha256:")
    for name in (image_id[:12], f"sha256:{image_id[:12]}"):
        assert await docker_runtime.store.find(name) is None
    with pytest.raises(ImageMissing):
        await docker_runtime.create(a_spec(agent_id=agent_id, image=image_id[:12]))


@docker_only
async def test_a_name_that_an_operator_gave_is_left_when_the_pulled_one_is_collected(
    docker_runtime: DockerRuntime,
    engine_client: docker.APIClient,
    pushed: Callable[[], tuple[str, str]],
    tmp_path: Path,
) -> None:
    clock, (image, _) = Clock(), pushed()
    images = NodeImages(docker_runtime.store, tmp_path / "images.json", disk_percent=0.001, clock=clock)
    await images.pull(PullImage(image))
    mine = f"moorage-test-mine:{new_id()}"
    engine_client.tag(image, *mine.split(":"))
    try:
        clock.ahead_s = HOUR
        # Any disk is fuller than that; the busybox of the tests was pulled by nobody.
        assert await images.collect() == [image]
        left = await images.names()
        assert mine in left
        assert IMAGE in left
    finally:
        engine_client.remove_image(mine)


class Scripted(SimulatedImages):
    """Pulls that end as they are told, on a disk of 100 bytes of which each image has 10."""

    def __init__(self, *ends: Exception | None) -> None:
        super().__init__()
        self.ends = list(ends)
        self.full_from = 100

    async def pull(self, image: str, said: Callable[[Line], None], credential: Credential | None = None) -> None:
        end = self.ends.pop(0) if self.ends else None
        if end is not None:
            raise end
        await super().pull(image, said, credential)

    async def disk(self) -> Disk | None:
        return Disk(10 * len(await self.index()), 100)


async def _at_once(seconds: float) -> None:
    return None


async def test_only_so_many_are_collected_as_are_in_the_way_the_longest_unused_first() -> None:
    clock, store = Clock(), Scripted()
    images = NodeImages(store, disk_percent=55, clock=clock)
    for number in range(8):
        clock.ahead_s += 60
        await images.pull(PullImage(f"slow/{number}:0"))
    clock.ahead_s += HOUR
    store.use("c1", "slow/0:0")
    assert await images.collect() == ["slow/1:0", "slow/2:0", "slow/3:0"]
    assert await images.collect() == []


async def test_a_full_disk_makes_room_first_and_else_another_node_is_tried(kept_logs: KeptLogs) -> None:
    clock, full = Clock(), NoRoom("write: no space left on device")
    store = Scripted(None, full, None, full, full)
    images = NodeImages(store, clock=clock)
    await images.pull(PullImage("slow/old:0"))
    clock.ahead_s = HOUR
    await images.pull(PullImage("slow/new:0"))
    assert [one.name for one in (await images.seen())[1]] == ["slow/new:0"]
    with pytest.raises(NoRoom):
        await images.pull(PullImage("slow/newer:0"))  # nothing else is old enough to go


async def test_what_breaks_five_times_is_given_up_with_its_words() -> None:
    pulls = Pulls(Scripted(*[ConnectionBroken("connection refused")] * 5), wait=_at_once)
    with pytest.raises(PullFailed, match=r"connection refused \(tried 5 times\)"):
        await pulls.pull("slow/app:0")
    assert pulls.progress() == []
    await pulls.pull("slow/app:0")


class Silent(Scripted):
    async def pull(self, image: str, said: Callable[[Line], None], credential: Credential | None = None) -> None:
        said({"id": "a", "status": "Waiting"})
        await asyncio.Event().wait()


async def test_a_registry_that_says_nothing_is_given_up() -> None:
    pulls = Pulls(Silent(), wait=_at_once, stalled_s=0.02)
    async with asyncio.timeout(10):
        with pytest.raises(PullFailed, match="said nothing for"):
            await pulls.pull("slow/app:0")


async def test_an_image_is_not_given_up_while_docker_loads_another_before_it() -> None:
    class Busy(Silent):
        async def pull(self, image: str, said: Callable[[Line], None], credential: Credential | None = None) -> None:
            if image == "slow/first:0":
                for _ in range(30):
                    said({"id": "a", "status": "Downloading", "progressDetail": {"current": 1, "total": 2}})
                    await asyncio.sleep(0.01)
                done.set()
                return
            await done.wait()

    done = asyncio.Event()
    pulls = Pulls(Busy(), wait=_at_once, stalled_s=0.1)
    second = asyncio.create_task(pulls.pull("slow/second:0"))
    async with asyncio.timeout(10):
        await pulls.pull("slow/first:0")
        await second


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("manifest unknown", PullFailed),
        ("pull access denied for x, repository does not exist or may require 'docker login'", PullFailed),
        ("no basic auth credentials", PullFailed),
        ("unexpected EOF", ConnectionBroken),
        ("dial tcp 10.0.0.1:443: connect: connection refused", ConnectionBroken),
        ("received unexpected HTTP status: 503 Service Unavailable", ConnectionBroken),
        ("write /var/lib/docker/tmp/x: no space left on device", NoRoom),
        ("words that nobody has seen yet", ConnectionBroken),
    ],
)
def test_docker_is_understood_by_its_words(words: str, kind: type[Exception]) -> None:
    assert type(refusal(words)) is kind
