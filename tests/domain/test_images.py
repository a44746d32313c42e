"""Names of images, patterns, and how a pull is told."""

from __future__ import annotations

import pytest

from moorage.domain.errors import InvalidRequest
from moorage.domain.images import (
    checked_host,
    checked_image,
    checked_pattern,
    digest_of,
    is_allowed,
    pinned,
    registry_of,
    tagged,
)
from moorage.domain.pulls import PullProgress, progress_of

D = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("image", "host", "name"),
    [
        ("python", "docker.io", "python:latest"),
        ("python:3.12", "docker.io", "python:3.12"),
        ("docker.io/library/python:3.12", "docker.io", "python:3.12"),
        ("docker.io/python", "docker.io", "python:latest"),
        ("index.docker.io/library/python", "docker.io", "python:latest"),
        ("team/app", "docker.io", "team/app:latest"),
        ("library/python:3", "docker.io", "python:3"),
        ("registry.example/team/app", "registry.example", "registry.example/team/app:latest"),
        ("localhost/app:1", "localhost", "localhost/app:1"),
        ("10.0.0.1:5000/app", "10.0.0.1:5000", "10.0.0.1:5000/app:latest"),
        ("Team/app:1", "Team", "Team/app:1"),
        (f"python@{D}", "docker.io", f"python@{D}"),
        (f"registry.example/app:3@{D}", "registry.example", f"registry.example/app@{D}"),
    ],
)
def test_a_name_belongs_to_a_registry_and_has_a_tag(image: str, host: str, name: str) -> None:
    assert (registry_of(image), tagged(image)) == (host, name)
    assert (registry_of(name), tagged(name)) == (host, name)


@pytest.mark.parametrize(
    ("pattern", "image", "allowed"),
    [
        ("python:*", "python:3.12", True),
        ("python:*", "python", True),
        ("python:*", f"python@{D}", True),
        ("python:*", "docker.io/library/python:3.12", True),
        ("python:*", "evil.example/python:3.12", False),
        ("python:*", "evil.example/library/python:3.12", False),
        ("python:*", "team/python:3.12", False),
        ("python:*", "pythons:3.12", False),
        ("python", "python:3.12", True),
        ("python:3.12", "python:3.12", True),
        ("python:3.12", "python:3.13", False),
        ("python:3.12", f"python:3.12@{D}", False),
        ("python:3.1?", "python:3.12", True),
        (f"python@{D}", f"python@{D}", True),
        (f"python@{D}", "python:3.12", False),
        ("docker.io/library/*", "python:3", True),
        ("docker.io/library/*", "team/python:3", False),
        ("docker.io/*", "team/python:3", True),
        ("team/*", "team/a/b:1", True),
        ("team/*", "registry.example/team/a:1", False),
        ("registry.example/team/*", "registry.example/team/app:1", True),
        ("registry.example/team/*", "registry.example/other/app:1", False),
        ("registry.example/team/*", "registry.example.evil.org/team/app:1", False),
        ("registry.example:5000/*", "registry.example/app", False),
        ("*.example/team/*", "eu.example/team/app", True),
        ("*/team/*", "eu.example/team/app", True),
        ("*/team/*", "team/app", True),
        ("*", "anything.example/at/all:1", True),
    ],
)
def test_a_pattern_means_what_it_says_whichever_way_a_name_is_written(pattern: str, image: str, allowed: bool) -> None:
    assert is_allowed(image, [pattern]) == allowed
    assert not is_allowed(image, [])


def test_a_pinned_name_has_the_digest_in_place_of_its_tag() -> None:
    assert pinned("python:3.12", D) == f"python@{D}"
    assert pinned("10.0.0.1:5000/team/app", D) == f"10.0.0.1:5000/team/app@{D}"
    assert pinned("python:3.12", "") == "python:3.12"
    assert pinned(f"python@{D}", "sha256:other") == f"python@{D}"


def test_the_digest_is_that_of_the_images_own_repository() -> None:
    listed = [f"mirror.example/python@sha256:{'b' * 64}", f"python@{D}"]
    assert digest_of("docker.io/library/python:3", listed) == D
    assert digest_of("team/python:3", listed) == ""


@pytest.mark.parametrize("name", ["sha256:abc", "a" * 64, "python@sha256:abc", "python@md5:abc"])
def test_an_id_and_half_a_digest_are_no_image(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        checked_image(name)
    assert refused.value.code == "malformed-image"


def test_hosts_and_patterns_are_looked_at() -> None:
    assert checked_host("registry.example:5000") == "registry.example:5000"
    assert checked_host("index.docker.io") == "docker.io"
    for host in ("https://registry.example", "a/b", "", "-x", "x" * 300):
        with pytest.raises(InvalidRequest):
            checked_host(host)
    for pattern in ("", "[a-z]*", "a b", "-x"):
        with pytest.raises(InvalidRequest):
            checked_pattern(pattern)


def test_a_newer_nodes_progress_is_read_as_far_as_it_is_known() -> None:
    assert progress_of({"image": "a:1", "layers": 2, "colour": "red"}) == PullProgress("a:1", layers=2)


def test_what_was_committed_needs_no_pattern() -> None:
    assert is_allowed("committed.local/mine:1", ["python:*"])
