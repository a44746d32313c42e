"""Prometheus' format, and what stands in it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.exposition import CONTENT_TYPE, Family, written
from tests.support.gateway import Gateway, refused
from tests.support.measured import Cluster, SilentNode

# https://prometheus.io/docs/instrumenting/exposition_formats/, the text format
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\n"])*"'
_SAMPLE = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(" + _LABEL + r"(?:," + _LABEL + r")*)\})? "
    r"(-?(?:\d+(?:\.\d+)?(?:e[+-]\d+)?|Inf)|\+Inf|NaN)"
)
_HELP = re.compile(r"# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (?:[^\\\n]|\\[\\n])*")
_TYPE = re.compile(r"# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge)")

Samples = dict[tuple[str, str], float]


def read(body: str) -> Samples:
    """By name and labels; fails where the grammar does."""
    assert body == "" or body.endswith("\n")
    samples: Samples = {}
    typed: dict[str, str] = {}
    for line in body.split("\n")[:-1]:
        if line.startswith("# HELP"):
            assert _HELP.fullmatch(line), line
        elif line.startswith("# TYPE"):
            found = _TYPE.fullmatch(line)
            assert found, line
            assert found[1] not in typed
            typed[found[1]] = found[2]
        else:
            found = _SAMPLE.fullmatch(line)
            assert found, line
            key = (found[1], found[2] or "")
            assert key not in samples
            assert found[1] == list(typed)[-1]
            samples[key] = float(found[3])
    assert all((kind == "counter") == name.endswith("_total") for name, kind in typed.items())
    return samples


@given(
    st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True), st.text(), max_size=4),
    st.floats() | st.integers(),
    st.text(),
)
def test_whatever_a_label_holds_the_format_is_kept(labels: dict[str, str], value: float, help: str) -> None:
    family = Family("a_metric", help)
    family.samples.append((labels, value))
    assert len(read(written([family]))) == 1


def test_the_text_is_as_documented() -> None:
    family = Family("a_total", 'a "counter"\nof \\ things')
    family.add(1, name='a"b\\c\nd')
    family.add(0.5)
    assert written([family, Family("empty", "has no samples")]) == (
        '# HELP a_total a "counter"\\nof \\\\ things\n# TYPE a_total counter\n'
        'a_total{name="a\\"b\\\\c\\nd"} 1\na_total 0.5\n'
    )


def test_unknown_values_are_left_out_and_odd_ones_written() -> None:
    family = Family("a", "odd")
    for n, value in enumerate([None, inf, -inf, nan]):
        family.add(value, n=str(n))
    assert [line.split()[-1] for line in written([family]).splitlines()[2:]] == ["+Inf", "-Inf", "NaN"]


@pytest.fixture
async def cluster(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(gateway, tmp_path)
    await cluster.add("n1")
    yield cluster
    await cluster.close()


async def test_everything_is_told_with_whose_it_is(gateway: Gateway, cluster: Cluster) -> None:
    running, _ = await gateway.submitted(resources={"cpu": 2, "mem": "64m"}), await gateway.submitted()
    await cluster.run(running, "n1")
    await cluster.pass_time()
    answer = await gateway.get("/metrics", gateway.root)
    assert answer.headers["content-type"] == CONTENT_TYPE
    samples = read(answer.text)
    whose = (
        f'session="{running["id"]}",name="{running["name"]}",kernel="main1",user="ada@example.org",'
        'project="default/default",resource_group="default",node="n1"'
    )
    assert samples["moorage_container_memory_bytes", whose] == 16 * 1024**2
    assert samples["moorage_container_cpu_limit_cores", whose] == 2
    assert ("moorage_container_cpu_seconds_total", whose) in samples
    assert samples["moorage_node_memory_bytes", 'node="n1"'] == 16 * 1024**2
    assert samples["moorage_queue_sessions", 'resource_group="default"'] == 1
    assert samples["moorage_queue_oldest_seconds", 'resource_group="default"'] >= 0
    assert samples["moorage_sessions", 'status="RUNNING"'] == 1
    assert samples["moorage_sessions", 'status="CREATING"'] == 0
    assert samples["moorage_slot_capacity", 'resource_group="default",slot="cpu"'] == 16_000
    assert samples["moorage_slot_used", 'resource_group="default",slot="cpu"'] == 0
    assert samples["moorage_agent_answered", 'node="n1",resource_group="default"'] == 1


async def test_a_node_that_does_not_answer_is_told_and_has_no_measurements(gateway: Gateway, cluster: Cluster) -> None:
    await cluster.add("n2", SilentNode())
    samples = read((await gateway.get("/metrics", gateway.root)).text)
    assert samples["moorage_agent_alive", 'node="n2",resource_group="default"'] == 1
    assert samples["moorage_agent_answered", 'node="n2",resource_group="default"'] == 0
    assert ("moorage_node_memory_bytes", 'node="n2"') not in samples


async def test_an_empty_cluster_has_metrics_too(gateway: Gateway) -> None:
    samples = read((await gateway.get("/metrics", gateway.root)).text)
    assert samples["moorage_queue_sessions", 'resource_group="default"'] == 0
    assert ("moorage_queue_oldest_seconds", 'resource_group="default"') not in samples


async def test_metrics_name_everybody_and_are_told_only_to_who_may_read_everything(gateway: Gateway) -> None:
    assert refused(await gateway.get("/metrics"), 403, "forbidden")["data"] == {"permission": "session:read"}
    assert (await gateway.http.get("/metrics")).status_code == 401
