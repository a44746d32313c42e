"""Prometheus' text format, version 0.0.4, written by a pure function."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf, isnan

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_IN_LABELS = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})


@dataclass(slots=True)
class Family:
    """One metric, a gauge unless its name ends in `_total`, with its samples."""

    name: str
    help: str
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)

    def add(self, value: float | None, **labels: str) -> None:
        """Unknown values are left out: a missing sample is not 0."""
        if value is not None:
            self.samples.append((labels, value))


def written(families: Iterable[Family]) -> str:
    """Those that have samples, each with HELP and TYPE."""
    lines: list[str] = []
    for family in families:
        if not family.samples:
            continue
        assert _NAME.fullmatch(family.name), family.name
        kind = "counter" if family.name.endswith("_total") else "gauge"
        lines += [f"# HELP {family.name} {family.help.translate(_IN_HELP)}", f"# TYPE {family.name} {kind}"]
        lines += [f"{family.name}{_labels(labels)} {_number(value)}" for labels, value in family.samples]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_IN_LABELS)}"' for name, value in labels.items()) + "}"


def _number(value: float) -> str:
    if isnan(value):
        return "NaN"
    if value in (inf, -inf):
        return "+Inf" if value > 0 else "-Inf"
    return str(value)
