"""Stamped lines: whoever comes back gets what is missing, and nothing twice."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from moorage.domain.log_lines import Lines, Position, parse_position, stamp_at, unix_time

STAMPS = [f"2026-01-31T12:00:00.00000000{number}Z" for number in (1, 1, 2, 3, 3, 4)]
TEXTS = [b"one\n", b"\n", b"a longer line\n", b"2026-01-31T12:00:00.000000001Z quoted\n", b"x" * 50 + b"\n", b"no end"]
STAMPED = b"".join(f"{stamp} ".encode() + text for stamp, text in zip(STAMPS, TEXTS, strict=True))
PLAIN = b"".join(TEXTS)


def _pieces(cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cuts), len(STAMPED)]
    return [STAMPED[start:end] for start, end in itertools.pairwise(edges)]


CUTS = st.lists(st.integers(0, len(STAMPED)), max_size=6)


@given(CUTS)
def test_however_it_is_cut_the_text_is_the_same(cuts: list[int]) -> None:
    with_stamps, without = Lines(stamps=True), Lines()
    assert b"".join(map(with_stamps.feed, _pieces(cuts))) == STAMPED
    assert b"".join(map(without.feed, _pieces(cuts))) == PLAIN


@given(CUTS, st.integers(0, len(STAMPED)), CUTS)
def test_whoever_broke_off_anywhere_goes_on_without_a_gap_or_a_repetition(
    cuts: list[int], broken_at: int, others: list[int]
) -> None:
    first, seen = Lines(), 0
    given_first = b""
    for piece in _pieces(cuts):
        given_first += first.feed(piece[: max(0, broken_at - seen)])
        seen += len(piece)
    at = first.position
    begin = STAMPED.index(at.stamp.encode()) if at.stamp else 0  # as a log read `since` that stamp begins
    second = Lines(after=at if at.stamp else None)
    rest, seen = b"", 0
    for piece in _pieces(others):
        rest += second.feed(piece[max(0, begin - seen) :])
        seen += len(piece)
    assert given_first + rest == PLAIN


def test_a_line_without_a_stamp_is_given_as_it_is() -> None:
    lines = Lines()
    assert lines.feed(b"[... 5 bytes left out ...]\n" + STAMPED) == b"[... 5 bytes left out ...]\n" + PLAIN
    assert Lines().feed(b"short") == b""
    cut = Lines()
    cut.feed(b"short")
    assert cut.rest() == b"short"


def test_positions_are_words_and_back() -> None:
    position = Position(STAMPS[0], 17)
    assert parse_position(str(position)) == position
    for nonsense in ("", "x", f"{STAMPS[0]}", f"{STAMPS[0]}+", f"{STAMPS[0]}+-1", f"{STAMPS[0]}+1\n"):
        assert parse_position(nonsense) is None


def test_a_stamp_keeps_its_nanoseconds_on_the_way_to_docker() -> None:
    assert unix_time("1970-01-01T00:01:00.000000001Z") == "60.000000001"
    assert stamp_at(60.5) == "1970-01-01T00:01:00.500000000Z"
