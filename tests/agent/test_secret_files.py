"""Secret files of Docker's containers: who may read them, and that none is left."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

from agent_worker.activities import without_secrets
from agent_worker.runtimes.contract import CreateRefused, ImageMissing
from agent_worker.runtimes.docker import DockerRuntime
from agent_worker.runtimes.secret_files import SecretFiles, user_of
from tests.agent.specs import IMAGE, a_spec

KEY = "/run/secrets/key"
PASSWD = b"root:x:0:0:root:/:/bin/sh\nada:x:1000:1001::/home/ada:/bin/sh\nbroken line\n"
needs_docker = pytest.mark.docker


@pytest.fixture
def files(tmp_path: Path) -> SecretFiles:
    return SecretFiles("moorage/n1", tmp_path)


@pytest.fixture
def user_image(engine_client: docker.APIClient) -> Iterator[str]:
    """The test image with a user of its own."""
    made = engine_client.create_container(IMAGE, command=["true"])["Id"]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("passwd")
        entry.size, entry.mode = len(PASSWD), 0o644
        tar.addfile(entry, io.BytesIO(PASSWD))
    engine_client.put_archive(made, "/etc", archive.getvalue())
    engine_client.commit(made, repository="moorage-test-user", tag="1", conf={"User": "ada"})
    engine_client.remove_container(made, force=True)
    yield "moorage-test-user:1"
    with suppress(APIError):
        engine_client.remove_image("moorage-test-user:1", force=True)


def left(runtime: DockerRuntime) -> list[str]:
    folder = runtime.secret_files.folder
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@needs_docker
async def test_they_are_there_before_the_command_and_readable_by_its_user_alone(
    docker_runtime: DockerRuntime, agent_id: str
) -> None:
    command = ("sh", "-c", f"ls -ln {KEY}; cat {KEY}; echo x > {KEY}; true")
    await docker_runtime.create(a_spec(*command, agent_id=agent_id, files={KEY: b"hunter2\n"}))
    [seen] = await docker_runtime.containers()
    said = b"".join([chunk async for chunk in docker_runtime.logs(seen, follow=True)])
    assert b"-r--------    1 0        0" in said
    assert b"hunter2\n" in said
    assert b"Read-only file system" in said


def test_where_they_cannot_be_written_the_node_says_so_and_keeps_none(files: SecretFiles) -> None:
    spec = a_spec(files={KEY: b"hunter2"})
    with files.written(spec):
        pass  # makes the folder
    files.remove(spec.kernel_id, 0)
    (files.folder / f"{spec.kernel_id}-0").write_text("in the way")
    with (
        pytest.raises(CreateRefused, match="this node has no memory for secret files: File exists"),
        files.written(spec),
    ):
        raise AssertionError("it must not come so far")


def test_half_a_file_that_a_killed_agent_left_is_written_anew(files: SecretFiles) -> None:
    spec = a_spec(files={KEY: b"hunter2"})
    with files.written(spec) as [mount]:
        whole = Path(mount["Source"])
    half = whole.with_suffix(".partial")
    half.write_bytes(b"hun")
    half.chmod(0o400)
    whole.unlink()
    with files.written(spec):
        assert whole.read_bytes() == b"hunter2"
        assert not half.exists()


@needs_docker
async def test_a_user_of_the_image_owns_them(docker_runtime: DockerRuntime, agent_id: str, user_image: str) -> None:
    await docker_runtime.create(a_spec(agent_id=agent_id, image=user_image, files={KEY: b"hunter2"}))
    [seen] = await docker_runtime.containers()
    assert (await docker_runtime.execute(seen, ["id", "-u"], 10)).stdout == "1000\n"
    assert (await docker_runtime.execute(seen, ["cat", KEY], 10)).stdout == "hunter2"
    assert "1000     1001" in (await docker_runtime.execute(seen, ["ls", "-ln", KEY], 10)).stdout


@needs_docker
async def test_they_lie_in_memory_and_go_with_their_container(docker_runtime: DockerRuntime, agent_id: str) -> None:
    await docker_runtime.create(a_spec(agent_id=agent_id, files={KEY: b"hunter2"}))
    [seen] = await docker_runtime.containers()
    assert docker_runtime.secret_files.folder.parent == Path("/dev/shm")
    assert docker_runtime.secret_files.folder.stat().st_mode & 0o777 == 0o700
    assert left(docker_runtime) == [f"{seen.kernel_id}-0"]
    await docker_runtime.remove(seen)
    assert left(docker_runtime) == []


@needs_docker
async def test_docker_itself_never_hears_their_content(
    docker_runtime: DockerRuntime, agent_id: str, engine_client: docker.APIClient
) -> None:
    started = await docker_runtime.create(a_spec(agent_id=agent_id, files={KEY: b"hunter2"}))
    assert "hunter2" not in str(engine_client.inspect_container(started.container_id))


@needs_docker
async def test_a_create_that_fails_leaves_none(docker_runtime: DockerRuntime, agent_id: str) -> None:
    with pytest.raises(ImageMissing):
        await docker_runtime.create(a_spec(agent_id=agent_id, image="missing/image:1", files={KEY: b"hunter2"}))
    with pytest.raises(CreateRefused):  # a folder of the image
        await docker_runtime.create(a_spec(agent_id=agent_id, files={"/bin": b"hunter2"}))
    assert left(docker_runtime) == []
    assert await docker_runtime.containers() == []


@needs_docker
async def test_another_process_of_the_agent_sweeps_what_no_container_has(
    docker_runtime: DockerRuntime, agent_id: str, engine_client: docker.APIClient
) -> None:
    kept = a_spec(agent_id=agent_id, files={KEY: b"hunter2"})
    await docker_runtime.create(kept)
    gone = await docker_runtime.create(a_spec(agent_id=agent_id, files={KEY: b"hunter2"}))
    engine_client.remove_container(gone.container_id, force=True)
    successor = DockerRuntime(agent_id)
    successor.secret_files.sweep(successor._attempts)
    await successor.close()
    assert left(docker_runtime) == [f"{kept.kernel_id}-0"]
    [seen] = await docker_runtime.containers()
    assert (await docker_runtime.execute(seen, ["cat", KEY], 10)).stdout == "hunter2"


def test_what_is_being_made_is_not_swept(files: SecretFiles) -> None:
    spec = a_spec(files={KEY: b"hunter2"})
    with files.written(spec):
        files.sweep(set)
        assert len(list(files.folder.iterdir())) == 1
    files.sweep(set)
    assert list(files.folder.iterdir()) == []


def test_a_kernel_without_files_makes_no_folder(files: SecretFiles) -> None:
    with files.written(a_spec()) as mounts:
        assert mounts == []
    files.hand_over(a_spec(), lambda: pytest.fail("nobody needs the user"))
    files.sweep(lambda: pytest.fail("there is nothing to sweep"))
    assert not files.folder.exists()


@pytest.mark.parametrize("trap", ["link", "open to all", "file"])
def test_a_folder_that_somebody_else_prepared_is_refused(files: SecretFiles, tmp_path: Path, trap: str) -> None:
    if trap == "link":
        (tmp_path / "elsewhere").mkdir()
        files.folder.symlink_to(tmp_path / "elsewhere")
    elif trap == "file":
        files.folder.write_text("")
    else:
        files.folder.mkdir()
        files.folder.chmod(0o777)
    with pytest.raises(CreateRefused, match="alone"), files.written(a_spec(files={KEY: b"hunter2"})):
        pytest.fail("nothing may be written there")
    assert not (tmp_path / "elsewhere").exists() or not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("user", "numbers"),
    [("0", (0, 0)), ("", (0, 0)), ("ada", (1000, 1001)), ("1000", (1000, 1001)), ("7:8", (7, 8)), ("ada:9", (1000, 9)),
     ("nobody", (0, 0)), ("5", (5, 0)), ("99999999999999", (0, 0))],
)  # fmt: skip
def test_the_user_of_an_image_is_found(user: str, numbers: tuple[int, int]) -> None:
    assert user_of(user, PASSWD) == numbers


def test_a_runtimes_words_lose_what_the_kernel_was_given() -> None:
    spec = a_spec(files={KEY: b"from-a-file"}, TOKEN="hunter2", SHORT="a")
    assert without_secrets("exec hunter2: from-a-file: a", spec) == "exec [hidden]: [hidden]: a"
