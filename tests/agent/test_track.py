"""Samples, rates and peaks of one container."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent_worker.metrics.reading import Reading
from agent_worker.metrics.ring import Ring
from agent_worker.metrics.track import BYTES, SAMPLES, Track
from moorage.domain.stats import DeviceReading


@given(st.lists(st.tuples(st.integers(0, 2**53), st.none() | st.integers(0, 2**53)), max_size=40), st.integers(1, 10))
def test_a_ring_holds_the_newest_rows_in_order(rows: list[tuple[int, int | None]], length: int) -> None:
    ring = Ring(width=2, length=length)
    for row in rows:
        ring.append(row)
    assert list(ring.rows()) == rows[-length:]
    assert ring.last() == (rows[-1] if rows else None)
    assert len(ring) == min(len(rows), length)


def test_a_track_never_grows_beyond_a_quarter_of_an_hour() -> None:
    track = Track()
    for n in range(2 * SAMPLES):
        track.add(Reading(age_s=n, cpu_us=n), at=n, clock=5.0 * n)
    history = track.history(0)
    assert (len(history), history[-1]["at"]) == (SAMPLES, 2 * SAMPLES - 1)
    assert BYTES == 12_960


def test_rates_are_by_the_monotonic_clock_whatever_the_time_of_day_does() -> None:
    track = Track()
    track.add(Reading(age_s=1, cpu_us=0, io_read=0), at=1000, clock=0)
    track.add(Reading(age_s=6, cpu_us=2_500_000, io_read=500), at=10, clock=5)
    assert track.stats is not None
    assert (track.stats.cpu, track.stats.io_read_s) == (500.0, 100.0)
    assert [point["cpu"] for point in track.history(0)] == [500.0]
    assert [point["cpu"] for point in track.history(-1)] == [None, 500.0]


def test_a_counter_that_went_back_has_an_unknown_rate() -> None:
    track = Track()
    track.add(Reading(cpu_us=9, net_rx=9), at=0, clock=0)
    track.add(Reading(cpu_us=1, net_rx=19), at=5, clock=5)
    assert track.stats is not None
    assert (track.stats.cpu, track.stats.net_rx_s) == (None, 2.0)


def test_what_is_unknown_stays_unknown() -> None:
    track = Track()
    for clock in (0, 5):
        track.add(Reading(age_s=clock), at=clock, clock=clock)
    usage = track.usage("k", 0)
    assert track.stats is not None
    assert usage is not None
    assert (track.stats.cpu, track.stats.mem, track.stats.mem_peak, track.stats.pids) == (None,) * 4
    assert (usage.cpu_ms, usage.cpu_peak, usage.mem_avg, usage.mem_peak, usage.net_rx) == (None,) * 5


def test_two_looks_at_the_same_moment_make_no_rate() -> None:
    track = Track()
    for clock, cpu_us in ((0, 0), (5, 5_000_000), (5.001, 5_900_000)):
        track.add(Reading(age_s=clock, cpu_us=cpu_us), at=clock, clock=clock)
    assert track.stats is not None
    assert (track.stats.cpu, track.stats.cpu_ms) == (1000.0, 5900)
    assert len(track.history(-1)) == 2


def test_the_whole_life_is_summed_up_with_averages_and_peaks() -> None:
    track = Track()
    for n, (mem, busy) in enumerate([(100, 10.0), (300, 50.0), (200, 30.0)]):
        gpu = DeviceReading("gpu-0", busy, mem=mem * 10)
        reading = Reading(age_s=60 + 5 * n, cpu_us=n * n * 1_000_000, mem=mem, mem_peak=900, pids=n)
        track.add(reading, at=n, clock=5 * n, devices=[gpu])
    usage = track.usage("k", 2)
    assert usage is not None
    assert (usage.kernel_id, usage.attempt, usage.seconds, usage.cpu_ms) == ("k", 2, 70, 4000)
    assert (usage.cpu_peak, usage.mem_avg, usage.mem_used_peak, usage.mem_peak) == (600, 200, 300, 900)
    assert usage.pids_peak == 2
    [device] = usage.devices
    assert (device.utilisation, device.utilisation_peak, device.mem_peak) == (30.0, 50.0, 3000)


def test_the_cores_of_a_life_that_was_seen_once_are_at_most_those_of_all_of_it() -> None:
    track = Track()
    track.add(Reading(age_s=2, cpu_us=1_000_000), at=0, clock=0)
    usage = track.usage("k", 0)
    assert usage is not None
    assert usage.cpu_peak == 500


def test_averages_are_over_time_however_often_it_was_looked() -> None:
    track = Track()
    for clock, mem in [(1, 100), (2, 100), (3, 100), (4, 100), (5, 100), (10, 300)]:
        track.add(Reading(age_s=clock, mem=mem), at=clock, clock=clock)
    usage = track.usage("k", 0)
    assert usage is not None
    assert usage.mem_avg == 200


def test_without_the_kernels_own_mark_the_largest_sample_is_the_peak() -> None:
    track = Track()
    for clock, mem in ((0, 5), (5, 9), (10, 3)):
        track.add(Reading(age_s=clock, mem=mem), at=clock, clock=clock)
    assert track.stats is not None
    assert (track.stats.mem, track.stats.mem_peak) == (3, 9)


def test_what_was_not_seen_for_long_is_unknown() -> None:
    track = Track()
    assert track.stats_at(0, 20) is None
    track.add(Reading(cpu_us=1), at=0, clock=0)
    assert track.stats_at(20, 20) is not None
    assert track.stats_at(21, 20) is None


def test_what_nobody_saw_has_no_usage() -> None:
    assert Track().usage("k", 0) is None
