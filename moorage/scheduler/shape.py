"""Requests as the room knows them: interned, by column, with what is remembered of each node; and their places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Need = tuple[tuple[int, int], ...]  # (column, amount), scarce slots first


class Part:
    """Equal kernels of a request, with the score of each node (inf: no room or not allowed)."""

    __slots__ = ("asked", "base", "need", "score", "seen", "weights")

    def __init__(
        self, need: Need, base: NDArray[np.float64], weights: tuple[float, ...], asked: dict[str, int]
    ) -> None:
        self.need = need
        self.base = base
        self.weights = weights
        self.asked = asked
        self.score: NDArray[np.float64] = np.zeros(0)
        self.seen = -1


class Shape:
    """A request with its constraints. `hopeless` holds until a node gets freer; `possible`: the empty group has room.

    `whole`: all goes on one node as a single amount, which `parts[0]` is; else `part_of` names the part of each kernel.
    """

    __slots__ = (
        "constraint",
        "counted",
        "hopeless",
        "index",
        "low",
        "one_node",
        "part_of",
        "parts",
        "possible",
        "starts",
        "total",
        "whole",
    )

    def __init__(self, index: int, parts: list[Part], part_of: list[int], *, whole: bool, one_node: bool) -> None:
        self.index = index
        self.parts = parts
        self.part_of = part_of
        self.whole = whole
        self.one_node = one_node
        self.hopeless = False
        self.possible = True
        self.constraint = 0
        self.total: dict[str, int] = {}
        self.counted: Need = ()  # the total by place among the slots that the group has
        self.low: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.starts: Starts | None = None


@dataclass(slots=True)
class Starts:
    """By node, when a request could start there; where it isn't known yet, a guess that is not too late."""

    at: NDArray[np.float64]
    known: NDArray[np.bool_]
    seen: int = 0


@dataclass(frozen=True, slots=True)
class Seat:
    """A kernel's place: the row of its node and its devices there."""

    row: int
    need: Need
    devices: dict[str, int]
