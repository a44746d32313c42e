"""Words that Temporal's Web UI shows."""

from __future__ import annotations


class Shown(str):
    """Goes to Temporal in clear; all else is encrypted. Ids, names, statuses: nothing that a user may keep secret."""

    __slots__ = ()
