"""A whole cluster on Docker pulls from a real registry on this machine that asks for a password.

Buys: the proof that a session's pull survives its agent, and that the registry's password is nowhere but there.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

from tests.support.cluster import Cluster
from tests.support.leaks import everything, found_in
from tests.support.registry import Image, Registry, a_registry, an_image, saved_image

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def base() -> Image:
    return saved_image(docker.APIClient(version="auto"), "moorage-test-busybox:1")


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    client = docker.APIClient(version="auto")
    with a_registry() as registry:
        registry.password = f"{secrets.token_hex(12)}/+?&={secrets.token_hex(12)}"
        yield registry
        for name in [name for image in client.images() for name in image.get("RepoTags") or ()]:
            if name.startswith(registry.address):
                with suppress(APIError):
                    client.remove_image(name, force=True)
    client.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[Cluster]:
    cluster = Cluster(Path(tmp_path_factory.mktemp("cluster")), runtime="docker")
    wish = {"username": "robot", "password": registry.password}
    assert cluster.request("PUT", f"/registry/{registry.address}", json=wish)["http_status"] == 201
    yield cluster
    cluster.close()


def test_a_sessions_pull_is_told_and_survives_its_agent(cluster: Cluster, registry: Registry, base: Image) -> None:
    digest = registry.push("team/app", "1", an_image(base, seed=time.time_ns()))
    registry.released = threading.Event()
    session = cluster.submit("true", image=registry.name("team/app"))

    def amounts() -> str:
        pulls = cluster.request("GET", f"/session/{session}/progress")["pulls"]
        return str(pulls[0]["amounts"]) if pulls else ""

    cluster.until(lambda: " of " in amounts(), "the first pull is half-way")
    assert "1/3 layers" in amounts()
    assert "progress" in cluster.moor("show", session).stdout
    cluster.kill("node1")
    registry.released.set()
    ended = cluster.wait_for(session, "TERMINATED", "ERROR")
    assert (ended["result"], ended["kernels"][0]["image_digest"]) == ("SUCCESS", digest)
    assert "PREPARING" in cluster.steps(session)


def test_an_image_is_pulled_ahead_listed_and_removed_again(cluster: Cluster, registry: Registry, base: Image) -> None:
    digest = registry.push("team/ahead", "2", an_image(base, seed=time.time_ns()))
    name = registry.name("team/ahead", "2")
    pulled = cluster.moor("image", "pull", name)
    assert (pulled.returncode, digest in pulled.stdout) == (0, True), pulled.stderr
    assert "1 nodes done" in pulled.stderr
    cluster.until(lambda: name in cluster.moor("image", "ls").stdout, "the node has told of it")
    session = cluster.submit("sleep", "600", image=name)
    cluster.wait_for(session, "RUNNING")
    assert "PREPARING" not in cluster.steps(session)
    kept = cluster.moor("image", "rm", name)
    assert (kept.returncode, f"is used by session {session}" in kept.stdout) == (1, True), kept.stdout
    cluster.request("DELETE", f"/session/{session}", params={"forced": "true"})
    cluster.wait_for(session, "TERMINATED")
    assert cluster.moor("image", "rm", name, "--agent", "node1").returncode == 0
    refused = cluster.moor("image", "pull", registry.name("team/nowhere"))
    assert (refused.returncode, "manifest unknown" in refused.stdout) == (1, True), refused.stdout


def test_the_password_of_a_registry_is_nowhere_in_clear(cluster: Cluster, registry: Registry) -> None:
    places = asyncio.run(everything(cluster.folder))
    assert any(place.startswith("history of image-") for place, _ in places)
    assert found_in({"password": registry.password}, places) == []
