"""The audit's chain, for whoever checks it: the gateway over the table, anybody over an exported file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypedDict

from moorage.domain.errors import InvalidRequest


class Broken(TypedDict):
    """Where a chain is broken, and how."""

    seq: int
    what: str


@dataclass(slots=True)
class Chain:
    """Follows rows in their order; `head` is the hash of the last one that was right. A part starts where it starts."""

    part: bool = False
    rows: int = 0
    seq: int = 0
    head: bytes = b""

    def follow(self, *, seq: int, previous: bytes, digest: bytes, record: str) -> Broken | None:
        """Takes the next row, or says what is wrong with it."""
        starts = self.part and not self.rows
        if not starts and seq != self.seq + 1:
            return Broken(seq=self.seq + 1, what=f"the row is missing; {seq} comes after {self.seq}")
        if (not starts or seq == 1) and previous != self.head:
            return Broken(seq=seq, what="it does not follow the row before: its previous hash is another one")
        if digest != hash_of(previous, seq, record):
            return Broken(seq=seq, what="the record is not the one that was written: its hash is another one")
        self.rows, self.seq, self.head = self.rows + 1, seq, digest
        return None


def hash_of(previous: bytes, seq: int, record: str) -> bytes:
    """As the database computes it when a row is appended."""
    return hashlib.sha256(previous + f"{seq} {record}".encode()).digest()


@dataclass(frozen=True, slots=True)
class Head:
    """A row that somebody remembered: nothing before it may be missing or different."""

    seq: int
    digest: bytes

    def contradicts(self, chain: Chain) -> Broken | None:
        """Asked when the chain stands at this row, and again at its end."""
        if chain.seq < self.seq:
            return Broken(seq=chain.seq + 1, what=f"the rows up to {self.seq} are missing: the end was cut off")
        if chain.seq == self.seq and chain.head != self.digest:
            return Broken(seq=self.seq, what="its hash is not the expected one: the chain was written anew")
        return None


def parse_head(words: str) -> Head:
    """`SEQ:HASH`, as a verification answers it."""
    seq, _, digest = words.partition(":")
    try:
        if not seq.isascii() or not seq.isdecimal() or len(digest) != 64:
            raise ValueError
        return Head(int(seq[:19]), bytes.fromhex(digest))
    except ValueError:
        raise InvalidRequest(
            f"{words[:80]!r} is no head of the audit; it is SEQ:HASH with 64 hexadecimal digits",
            code="malformed-head",
        ) from None
