"""What is shown of a log's end."""

from __future__ import annotations

from agent_worker.last_words import LAST_BYTES, last_line, last_lines, without


def test_the_last_twenty_lines_are_kept() -> None:
    log = b"".join(b"line %d\n" % number for number in range(100))
    assert last_lines(log, ()).splitlines() == [f"line {number}" for number in range(80, 100)]


def test_what_is_long_loses_its_beginning_and_no_character_is_cut_in_two() -> None:
    found = last_lines("é".encode() * 5000, ())
    assert len(found.encode()) <= LAST_BYTES
    assert set(found) == {"…", "é"}


def test_neither_colours_nor_controls_nor_broken_bytes_are_left() -> None:
    assert last_lines(b"\x1b[1;31mred\x1b[0m\0 \xff\r\nnext\x07\n\n", ()) == "red \ufffd\nnext"


def test_secrets_are_hidden_before_the_cut() -> None:
    secret = "s3cret/" * 4
    log = (secret + "x" * (LAST_BYTES - 10)).encode()  # the cut would leave a part of it
    assert "s3cret" not in last_lines(log, {secret})
    assert last_lines(log, ()).count("s3cret") == 1


def test_a_key_of_several_lines_is_hidden_line_by_line() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADAN\n-----END KEY-----\n"
    assert last_lines(b"  MIIEvQIBADAN was read\n", {key}) == "  [hidden] was read"


def test_plain_words_and_numbers_stay_readable() -> None:
    assert last_lines(b"listening on 8080: true, pin 80a80\n", {"8080", "true", "80a80"}) == (
        "listening on 8080: true, pin [hidden]"
    )


def test_a_value_that_holds_another_is_hidden_whole() -> None:
    assert without("abcd1234 abcd", {"abcd", "abcd1234"}) == "[hidden] [hidden]"


def test_the_last_line_that_says_something_is_told() -> None:
    assert last_line(b"one\ntwo \n\n \n", ()) == "two"
    assert last_line(b"", ()) == ""
