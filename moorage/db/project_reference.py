"""Which project somebody means: an id, `domain/name`, `domain:name`, or a name in his own domain."""

from __future__ import annotations

from dataclasses import replace

from moorage.domain.errors import NotFound
from moorage.domain.ids import is_id
from moorage.domain.tenancy import Principal


def parsed(who: Principal, ref: str) -> tuple[str, str | None]:
    """(name, domain), or (id, None)."""
    if is_id(ref):
        return ref, None
    for separator in "/:":
        domain, found, name = ref.partition(separator)
        if found:
            return name, domain
    return ref, who.domain


def named(who: Principal, ref: str) -> tuple[str, dict[str, str]]:
    """A condition for the row of `projects p` that the reference means, with its values."""
    name, domain = parsed(who, ref)
    if domain is None:
        return "p.id = CAST(:name AS uuid)", {"name": name}
    return "p.name = :name AND p.domain = :domain", {"name": name, "domain": domain}


def chosen(who: Principal, ref: str | None) -> Principal:
    """`who`, working in that project: one that it belongs to and that is active. None is its main one."""
    if ref is None:
        found = next((name for name, id in who.projects.items() if id == who.project_id), None)
    else:
        name, domain = parsed(who, ref)
        if domain is None:
            found = next((one for one, id in who.projects.items() if id == name), None)
        else:
            found = name if domain == who.domain and name in who.projects else None
    if found is None:
        raise not_of(ref or who.project)
    return replace(who, project_id=who.projects[found], project=found)


def not_of(ref: str) -> NotFound:
    return NotFound(
        f"you belong to no active project {ref[:130]!r}",
        code="unknown-project",
        hint="GET /whoami lists yours",
        data={"field": "project"},
    )


def unknown(ref: str) -> NotFound:
    return NotFound(f"there is no project {ref[:130]!r}", code="unknown-project", hint="its name is domain/project")
