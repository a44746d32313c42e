"""Where a user may ask from."""

from __future__ import annotations

import pytest

from moorage.domain.addresses import checked_addresses, is_allowed
from moorage.domain.errors import InvalidRequest


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("10.0.255.1", "10.0.0.0/16"),
        ("10.0.3.4", "10.0.*.*"),
        ("10.9.3.4", "10.*.*.*"),
        ("::ffff:10.0.0.7", "10.0.0.0/24"),
        ("2001:db8::1", "2001:db8::/32"),
        ("fe80::1%eth0", "fe80::/10"),
    ],
)
def test_an_address_within_what_is_allowed_may_ask(address: str, allowed: str) -> None:
    assert is_allowed(address, (allowed,))
    assert is_allowed(address, ("192.0.2.1", allowed))


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.0.0.8", "10.0.0.7"),
        ("10.1.0.1", "10.0.0.0/16"),
        ("10.1.0.1", "10.0.*.*"),
        ("2001:db9::1", "2001:db8::/32"),
        ("10.0.0.7", "::/0"),
        ("", "0.0.0.0/0"),
        ("testclient", "0.0.0.0/0"),
        ("10.0.0.7, 1.2.3.4", "10.0.0.7"),
    ],
)
def test_any_other_may_not(address: str, allowed: str) -> None:
    assert not is_allowed(address, (allowed,))


def test_nothing_allowed_is_everywhere() -> None:
    assert is_allowed("10.0.0.7", ())
    assert is_allowed("", ())


def test_addresses_are_kept_as_written_and_once() -> None:
    assert checked_addresses([" 10.0.*.* ", "10.0.0.0/8", "10.0.*.*"]) == ["10.0.*.*", "10.0.0.0/8"]


@pytest.mark.parametrize(
    "written", ["", "10.0.0", "10.0.0.1/8", "10.*.0.1", "*", "10.*", "300.0.*.*", "example.org", "10.0.0.0/33", "::*"]
)
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        checked_addresses(["10.0.0.1", written])
    assert refusal.value.code == "malformed-address"


def test_no_more_than_a_hundred_are_kept() -> None:
    with pytest.raises(InvalidRequest, match="101 addresses; at most 100"):
        checked_addresses([f"10.0.0.{number}" for number in range(101)])
