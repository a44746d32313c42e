"""What `moor up` refuses before it starts anything, and what it keeps on disk."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from moorage.cli import show
from moorage.cli.profile import read_toml, write_toml
from moorage.cli.up.before import check_ports, check_request
from moorage.cli.up.state import PartState, Place, Ports, RunRecord, birth_of, load_keys, read_run, take_lock
from moorage.domain.errors import Conflict, InvalidRequest


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "data")
    place.make()
    return place


def a_run(**changes: int) -> RunRecord:
    return RunRecord(
        pid=changes.get("pid", os.getpid()), born=birth_of(os.getpid()), started=0.0, ready=True, endpoint="e",
        web_ui="w", temporal="t", database_url="d", runtime="simulated", agents=1, parts=[PartState("api", 1, 2.0, 3)],
    )  # fmt: skip


def test_a_second_start_in_the_same_folder_is_refused_with_the_pid_of_the_first(place: Place) -> None:
    lock = take_lock(place)
    with pytest.raises(Conflict, match=rf"already running \(pid {os.getpid()}\)"):
        take_lock(place)
    os.close(lock)
    os.close(take_lock(place))


def test_a_port_in_use_is_named_with_what_wanted_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {port}, wanted for the API"):
            check_ports(Ports(port, 1))


def test_ports_of_several_nodes_follow_each_other() -> None:
    assert sorted(Ports(8090, 3).needed()) == [8090, 8091, 8092, 8100, 8101, 8102]


@pytest.mark.parametrize(
    ("port", "agents", "runtime"), [(70000, 1, "docker"), (8090, 0, "docker"), (8090, 1, "podman")]
)
def test_what_can_not_be_is_refused_before_anything_starts(port: int, agents: int, runtime: str) -> None:
    with pytest.raises(InvalidRequest):
        check_request(Ports(port, agents), runtime)


def test_keys_are_made_once_and_only_their_owner_reads_them(place: Place) -> None:
    keys = load_keys(place)
    assert load_keys(place) == keys
    assert stat.S_IMODE((place.folder / "keys.toml").stat().st_mode) == 0o600


def test_the_key_of_a_cluster_from_before_becomes_the_first_of_its_ring(place: Place) -> None:
    keys = load_keys(place)
    del keys["jwt_keys"]
    write_toml(place.folder / "keys.toml", keys | {"jwt_key": "s" * 64})
    assert load_keys(place) == keys | {"jwt_keys": f"k1:{'s' * 64}"}
    assert load_keys(place)["jwt_keys"] == f"k1:{'s' * 64}"


def test_what_runs_is_read_back_as_it_was_written(place: Place) -> None:
    assert read_run(place) is None
    a_run().write(place)
    assert read_run(place) == a_run()


def test_a_pid_that_now_belongs_to_another_process_does_not_count_as_running() -> None:
    assert a_run().alive()
    assert not a_run(pid=1).alive() or birth_of(1) == birth_of(os.getpid())


def test_values_survive_the_toml_file(tmp_path: Path) -> None:
    values = {"endpoint": "http://h:1", "secret_key": 'quote " back \\ slash'}
    write_toml(tmp_path / "c.toml", values)
    assert read_toml(tmp_path / "c.toml") == values


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.35, "350 ms"), (2.44, "2.4 s"), (185, "3 m 05 s"), (7440, "2 h 04 m"), (273600, "3 d 04 h")],
)
def test_durations_are_short_to_read(seconds: float, words: str) -> None:
    assert show.duration(seconds) == words


def test_control_characters_in_strangers_texts_do_not_reach_the_terminal() -> None:
    assert show.printable("a\x1b[31mb") == "a�[31mb"
