"""Containers and nodes are read from the kernel's files, whichever version of control groups they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent_worker.metrics import cgroups, proc
from agent_worker.metrics.gauges import Gauges
from agent_worker.metrics.reading import Reading
from tests.agent.trees import ID, PID, V1, V2, a_process, v1_tree, v2_tree, write

READ = Reading(
    cpu_us=305972,
    cpu_limit=500,
    mem=2863104 - 1363968,
    mem_limit=33554432,
    mem_peak=4354048,
    io_read=4100,
    io_write=8192,
    net_rx=201,
    net_tx=302,
    pids=2,
)


def _read(root: Path) -> Reading | None:
    gauges = Gauges(lambda _: PID, root=str(root))
    return gauges.read([ID]).containers.get(ID)


@pytest.mark.parametrize("tree", [v1_tree, v2_tree])
def test_a_container_is_read_from_either_version_alike(tmp_path: Path, tree: Callable[[Path], None]) -> None:
    tree(tmp_path)
    found = _read(tmp_path)
    assert found is not None
    assert found.age_s is not None
    assert found.age_s == pytest.approx(proc.since_boot() - 5, abs=5)
    assert replace(found, age_s=None) == READ


def test_a_container_in_a_folder_of_its_owners_choice_is_found_by_its_process(tmp_path: Path) -> None:
    v1_tree(tmp_path, parent="/lab/of/ada")
    found = _read(tmp_path)
    assert found is not None
    assert found.cpu_us == 305972


def test_a_first_process_that_moved_into_a_group_of_its_own_is_read_at_the_containers(tmp_path: Path) -> None:
    v2_tree(tmp_path)
    a_process(tmp_path, f"0::/system.slice/docker-{ID}.scope/init.scope\n")
    found = _read(tmp_path)
    assert found is not None
    assert found.pids == 2


def test_controllers_that_share_a_hierarchy_are_found(tmp_path: Path) -> None:
    known = cgroups.mounts("33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n")
    group = cgroups.group_of(f"2:cpu,cpuacct:/docker/{ID}\n0::/\n", ID, known)
    folder = f"/sys/fs/cgroup/cpu,cpuacct/docker/{ID}"
    assert group == cgroups.Group({"cpu": folder, "cpuacct": folder}, None)


def test_an_agent_that_sees_only_a_part_of_the_hierarchy_finds_what_is_in_it() -> None:
    known = cgroups.mounts("30 25 0:26 /lab /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    assert cgroups.group_of(f"0::/lab/{ID}\n", ID, known).v2 == f"/sys/fs/cgroup/{ID}"
    assert cgroups.group_of(f"0::/other/{ID}\n", ID, known).v2 is None
    assert cgroups.group_of(f"0::/../{ID}\n", ID, known).v2 is None


def test_what_a_kernel_does_not_say_is_unknown_and_not_zero(tmp_path: Path) -> None:
    lacking = {"memory.peak", "io.stat", "pids.current", "cpu.max"}
    v2_tree(tmp_path, {name: content for name, content in V2.items() if name not in lacking})
    found = _read(tmp_path)
    assert found is not None
    assert (found.mem_peak, found.io_read, found.io_write, found.pids, found.cpu_limit) == (None,) * 5
    assert found.cpu_us == 305972


def test_no_limit_is_unknown_in_either_version(tmp_path: Path) -> None:
    v2_tree(tmp_path / "2", {**V2, "cpu.max": "max 100000\n", "memory.max": "max\n"})
    unlimited = {"cpu/cpu.cfs_quota_us": "-1\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"}
    v1_tree(tmp_path / "1", {**V1, **unlimited})
    for version in "12":
        found = _read(tmp_path / version)
        assert found is not None
        assert (found.cpu_limit, found.mem_limit) == (None, None)


def test_a_group_that_has_not_read_or_written_yet_has_read_and_written_nothing(tmp_path: Path) -> None:
    v2_tree(tmp_path / "2", {**V2, "io.stat": ""})
    v1_tree(tmp_path / "1", {**V1, "blkio/blkio.throttle.io_service_bytes_recursive": "Total 0\n"})
    for version in "12":
        found = _read(tmp_path / version)
        assert found is not None
        assert (found.io_read, found.io_write) == (0, 0)


@pytest.mark.parametrize("tree", [v1_tree, v2_tree])
def test_a_container_that_is_gone_is_left_out_and_asked_for_anew(tmp_path: Path, tree: Callable[[Path], None]) -> None:
    tree(tmp_path)
    asked: list[str] = []

    def process(container_id: str) -> int | None:
        asked.append(container_id)
        return PID

    gauges = Gauges(process, root=str(tmp_path))
    assert ID in gauges.read([ID]).containers
    assert ID in gauges.read([ID]).containers
    assert asked == [ID]
    shutil.rmtree(tmp_path / "sys")
    assert gauges.read([ID]).containers == {}
    tree(tmp_path)
    assert ID in gauges.read([ID]).containers
    assert asked == [ID, ID]


def test_a_container_without_a_process_is_left_out(tmp_path: Path) -> None:
    v2_tree(tmp_path)
    assert Gauges(lambda _: None, root=str(tmp_path)).read([ID]).containers == {}
    assert Gauges(lambda _: PID + 1, root=str(tmp_path)).read([ID]).containers == {}


def test_a_node_without_control_groups_measures_no_container_but_itself(tmp_path: Path) -> None:
    a_process(tmp_path, "0::/x\n")
    a_node(tmp_path)
    readings = Gauges(lambda _: PID, root=str(tmp_path)).read([ID])
    assert readings.containers == {}
    assert readings.node.mem_limit == 24684084 * 1024


def a_node(root: Path) -> None:
    write(
        root,
        {
            "proc/stat": "cpu  100 1 20 5000 30 4 5 600 7 0\ncpu0 50 1 10 2500 15 2 3 300 0 0\n"
            "cpu1 50 0 10 2500 15 2 2 300 0 0\nintr 1 2\n",
            "proc/meminfo": "MemTotal:       24684084 kB\nMemFree:        21505336 kB\nMemAvailable:   22747376 kB\n",
            "proc/diskstats": " 254 0 vda 698806 64681 200 3010495 2120710 653058 400 978227 0 263316 4079605\n"
            " 254 1 vda1 698806 64681 200 3010495 2120710 653058 400 978227 0 263316 4079605\n"
            "   7 0 loop0 9 9 9 9 9 9 9 9 0 0 0\n",
            "sys/block/vda/device/model": "disk\n",
            "sys/block/loop0/size": "0\n",
            "proc/net/dev": "Inter-|\n face |\n    lo: 5 0 0 0 0 0 0 0 5 0\n  eth0: 7 0 0 0 0 0 0 0 8 0\n"
            "docker0: 5 0 0 0 0 0 0 0 5 0\n veth1: 5 0 0 0 0 0 0 0 5 0\n",
            "proc/loadavg": "8.34 4.58 2.31 18/220 2213\n",
        },
    )


def test_the_nodes_disks_and_interfaces_are_counted_once(tmp_path: Path) -> None:
    a_node(tmp_path)
    node = proc.node(root=str(tmp_path))
    assert (node.io_read, node.io_write) == (200 * 512, 400 * 512)
    assert (node.net_rx, node.net_tx) == (7, 8)
    assert (node.cpu_us, node.cpu_limit) == (130 * 10_000, 2000)
    assert node.mem == (24684084 - 22747376) * 1024
    assert node.pids == 220


def test_a_node_that_says_nothing_is_unknown(tmp_path: Path) -> None:
    assert replace(proc.node(root=str(tmp_path)), age_s=None) == Reading()
