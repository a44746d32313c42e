"""Snapshots, policies and decisions as plain data that JSON can hold, so that a pass can be kept and decided again."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T")


def to_plain(value: Any) -> Any:
    """Dicts, lists, strings and numbers. Fields that have their default are left out, sets are sorted lists."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        written = ((one.name, getattr(value, one.name)) for one in fields(value))
        return {name: to_plain(held) for name, held in written if held != _default(type(value), name)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(held) for key, held in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(to_plain(one) for one in value)
    if isinstance(value, tuple | list):
        return [to_plain(one) for one in value]
    return value


def from_plain(kind: type[_T], plain: Any) -> _T:
    """The value of that type that `to_plain` wrote. Raises TypeError for a field that the type doesn't have."""
    read: _T = _read(kind, plain)
    return read


def _read(kind: Any, plain: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if plain is None else _read(next(one for one in inner if one is not type(None)), plain)
    if origin is tuple:
        return tuple(_read(inner[0], one) for one in plain)
    if origin is frozenset:
        return frozenset(_read(inner[0], one) for one in plain)
    if origin is not None and issubclass(origin, Mapping):
        return {key: _read(inner[1], held) for key, held in plain.items()}
    if is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        unknown = set(plain) - set(hints)
        if unknown:
            raise TypeError(f"{kind.__name__} has no field {sorted(unknown)[0]}")
        return kind(**{name: _read(hints[name], held) for name, held in plain.items()})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(plain)
    return float(plain) if kind is float else plain


_MISSING = object()


@cache
def _defaults(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in fields(kind):
        if callable(one.default_factory):
            found[one.name] = one.default_factory()
        else:
            found[one.name] = one.default
    return found


def _default(kind: type, name: str) -> Any:
    return _defaults(kind).get(name, _MISSING)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
