"""How far a permission goes, as a condition of a query: a list holds what one may see, and no row of others is read."""

from __future__ import annotations

from typing import Any

from moorage.domain.permissions import Reach


def within(
    reach: Reach, values: list[Any], *, user: str = "", project: str = "", domain: str = "", id_type: str = "uuid"
) -> str:
    """A condition for rows whose owner stands in these columns; its values are appended to `values` ($1 is the first).

    A column that the rows don't have is left out: no scope of that kind reaches them. `id_type`: of users and projects.
    """
    if reach.everywhere:
        return "true"
    conditions = []
    for column, ids in ((user, reach.users), (project, reach.projects), (domain, reach.domains)):
        if column and ids:
            kind = "text" if column == domain else id_type
            if len(ids) == 1:  # an index gives these in its own order
                values.append(next(iter(ids)))
                conditions.append(f"{column} = ${len(values)}::{kind}")
            else:
                values.append(sorted(ids))
                conditions.append(f"{column} = ANY(${len(values)}::{kind}[])")
    if not conditions:
        return "false"
    return conditions[0] if len(conditions) == 1 else f"({' OR '.join(conditions)})"


def alternatives(reach: Reach, values: list[Any], *, user: str, project: str, domain: str) -> list[str]:
    """The same as conditions of one owner each, of which one must hold: for each, an index gives rows in its order."""
    if reach.everywhere:
        return ["true"]
    conditions = []
    for column, kind, ids in (
        (user, "uuid", reach.users),
        (project, "uuid", reach.projects),
        (domain, "text", reach.domains),
    ):
        for one in sorted(ids):
            values.append(one)
            conditions.append(f"{column} = ${len(values)}::{kind}")
    return conditions or ["false"]
