"""What is sealed, and by which key."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag

from moorage.domain.errors import InvalidRequest
from moorage.seal import Seal

OLD, NEW = "k1:" + "11" * 32, "k2:" + "22" * 32


def test_what_was_sealed_is_opened_and_never_looks_the_same_twice() -> None:
    seal = Seal(OLD)
    first, second = seal.seal(b"hunter2"), seal.seal(b"hunter2")
    assert first != second
    assert b"hunter2" not in first
    assert (seal.open(first), seal.open(second)) == (b"hunter2", b"hunter2")


def test_the_first_key_seals_and_every_key_opens() -> None:
    ring = Seal(f"{NEW},{OLD}")
    assert ring.open(Seal(OLD).seal(b"old")) == b"old"
    assert Seal(NEW).open(ring.seal(b"new")) == b"new"


def test_what_a_missing_key_sealed_says_which_key_it_needs() -> None:
    with pytest.raises(ValueError, match="k1"):
        Seal(NEW).open(Seal(OLD).seal(b"old"))


@pytest.mark.parametrize("place", [0, 3, 20, -1])
def test_what_was_tampered_with_is_not_opened(place: int) -> None:
    sealed = bytearray(Seal(OLD).seal(b"hunter2"))
    sealed[place] ^= 1
    with pytest.raises((InvalidTag, ValueError)):
        Seal(OLD).open(bytes(sealed))


def test_a_key_under_another_ones_name_opens_nothing() -> None:
    with pytest.raises(InvalidTag):
        Seal("k1:" + "22" * 32).open(Seal(OLD).seal(b"old"))


@pytest.mark.parametrize("keys", ["", ",", "k1", "k1:", "k1:11", "k1:" + "zz" * 32, "k1:" + "11" * 31, "a:b:c"])
def test_what_is_no_key_ring_is_refused_without_quoting_it(keys: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Seal(keys)
    assert "MOORAGE_PAYLOAD_KEYS" in refusal.value.message
    assert "zz" not in refusal.value.message


def test_a_ring_shows_no_key() -> None:
    assert "11" * 8 not in repr(Seal(OLD))
