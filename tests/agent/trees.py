"""Control groups and /proc as recorded on real machines, written into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ID = "9dd6ace52b69bd59f7c7bae009b25d64f4262d8c5fd0553a137a543523dba692"
PID = 1439

V1: Mapping[str, str] = {
    "cpuacct/cpuacct.usage": "305972151\n",
    "cpu/cpu.cfs_quota_us": "50000\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "memory/memory.usage_in_bytes": "2863104\n",
    "memory/memory.max_usage_in_bytes": "4354048\n",
    "memory/memory.limit_in_bytes": "33554432\n",
    "memory/memory.stat": "cache 2002944\nrss 61440\ninactive_file 7\ntotal_inactive_file 1363968\n",
    "blkio/blkio.throttle.io_service_bytes_recursive": "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 8192\n"
    "254:0 Async 4096\n254:0 Total 12288\n8:0 Read 4\n8:0 Write 0\nTotal 12292\n",
    "pids/pids.current": "2\n",
    "pids/pids.max": "100\n",
}
V2: Mapping[str, str] = {
    "cpu.stat": "usage_usec 305972\nuser_usec 200000\nsystem_usec 105972\nnr_periods 12\n",
    "cpu.max": "50000 100000\n",
    "memory.current": "2863104\n",
    "memory.peak": "4354048\n",
    "memory.max": "33554432\n",
    "memory.stat": "anon 61440\nfile 2002944\ninactive_anon 57344\ninactive_file 1363968\nactive_file 638976\n",
    "io.stat": "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:0 rbytes=4 wbytes=0 rios=1 wios=0\n",
    "pids.current": "2\n",
}
NET = """Inter-|   Receive                        |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls
    lo:     999       9    0    0    0     0          0         0      999       9    0    0    0     0
  eth0:     200       2    0    0    0     0          0         0      300       3    0    0    0     0
  eth1:       1       1    0    0    0     0          0         0        2       1    0    0    0     0
"""
STAT = f"{PID} (a (name) of) S 1 " + " ".join(["0"] * 17) + " 500 0 0\n"
CONTROLLERS = ("cpu", "cpuacct", "memory", "blkio", "pids")


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def a_process(root: Path, groups: str, *, pid: int = PID) -> None:
    write(root, {f"proc/{pid}/cgroup": groups, f"proc/{pid}/net/dev": NET, f"proc/{pid}/stat": STAT})


def v1_tree(
    root: Path, files: Mapping[str, str] = V1, *, parent: str = "/docker", name: str = ID, pid: int = PID
) -> None:
    """Each controller in a hierarchy of its own, `parent` being Docker's folder in each."""
    mounts = [
        f"{30 + n} 31 0:{n} / {root}/sys/fs/cgroup/{controller} rw,relatime - cgroup cgroup rw,{controller}"
        for n, controller in enumerate(CONTROLLERS)
    ]
    mounts.append(f"41 31 0:38 / {root}/sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw")
    write(root, {"proc/self/mountinfo": "\n".join(mounts) + "\n"})
    for path, content in files.items():
        controller, _, file = path.partition("/")
        write(root, {f"sys/fs/cgroup/{controller}{parent}/{name}/{file}": content})
    lines = [f"{n}:{controller}:{parent}/{name}" for n, controller in enumerate(CONTROLLERS, 1)]
    a_process(root, "\n".join([*lines, f"9:name=systemd:{parent}/{name}", f"0::{parent}/{name}"]) + "\n", pid=pid)


def v2_tree(root: Path, files: Mapping[str, str] = V2, *, name: str = ID, pid: int = PID) -> None:
    """One hierarchy, as systemd's driver lays it out."""
    folder = f"system.slice/docker-{name}.scope"
    mount = f"30 25 0:26 / {root}/sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    write(root, {"proc/self/mountinfo": mount})
    write(root, {f"sys/fs/cgroup/{folder}/{path}": content for path, content in files.items()})
    a_process(root, f"0::/{folder}\n", pid=pid)
