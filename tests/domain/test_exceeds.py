"""Whether one holds more than another."""

from __future__ import annotations

import pytest

from moorage.domain.permissions import BUILT_IN, Held, ScopeKind, exceeds

# Where projects and users of these tests lie.
DOMAINS = {"p1": "red", "p2": "red", "q1": "blue", "ada": "red", "bob": "red", "eve": "blue"}


def held(role: str, scope: ScopeKind, scope_id: str = "") -> Held:
    return Held(scope, scope_id, BUILT_IN[role])


def a_user(name: str, *projects: str) -> list[Held]:
    members = [held("member", ScopeKind.PROJECT, project) for project in projects]
    return [held("user", ScopeKind.USER, name), *members]


ROOT = [*a_user("root"), held("superadmin", ScopeKind.GLOBAL)]
MONITOR = [*a_user("mona"), held("monitor", ScopeKind.GLOBAL)]
RED_ADMIN = [*a_user("rita", "p1"), held("domain-admin", ScopeKind.DOMAIN, "red")]
BLUE_ADMIN = [*a_user("bert", "q1"), held("domain-admin", ScopeKind.DOMAIN, "blue")]
P1_ADMIN = [*a_user("paul", "p1"), held("project-admin", ScopeKind.PROJECT, "p1")]
ADA = a_user("ada", "p1")

CASES = [
    # mine, theirs, whose, exceeds
    (ROOT, ROOT, "root2", False),
    (ROOT, RED_ADMIN, "rita", False),
    (ROOT, MONITOR, "mona", False),
    (ROOT, ADA, "ada", False),
    (MONITOR, ADA, "ada", True),
    (MONITOR, MONITOR, "mona", False),
    (RED_ADMIN, ROOT, "root", True),
    (RED_ADMIN, MONITOR, "mona", True),
    (RED_ADMIN, RED_ADMIN, "rita", False),
    (RED_ADMIN, BLUE_ADMIN, "bert", True),
    (RED_ADMIN, P1_ADMIN, "paul", False),
    (RED_ADMIN, ADA, "ada", False),
    (RED_ADMIN, a_user("eve", "q1"), "eve", True),
    (RED_ADMIN, a_user("ada", "p1", "q1"), "ada", True),
    (P1_ADMIN, RED_ADMIN, "rita", True),
    (P1_ADMIN, a_user("bob", "p2"), "bob", True),
    (P1_ADMIN, ADA, "ada", False),
    (ADA, P1_ADMIN, "paul", True),
    (ADA, a_user("bob", "p1"), "bob", False),
    (ADA, [], "nobody", False),
]


@pytest.mark.parametrize(("mine", "theirs", "them", "expected"), CASES)
def test_a_wider_scope_covers_all_that_lies_in_it(
    mine: list[Held], theirs: list[Held], them: str, *, expected: bool
) -> None:
    assert exceeds(mine, theirs, them=them, domains=DOMAINS) is expected


def test_a_role_over_somebody_else_counts() -> None:
    guardian = [*ADA, held("user", ScopeKind.USER, "eve")]
    assert exceeds(RED_ADMIN, guardian, them="ada", domains=DOMAINS)
    assert not exceeds(ROOT, guardian, them="ada", domains=DOMAINS)
    assert exceeds(a_user("bob", "p1"), guardian, them="ada", domains=DOMAINS)


def test_more_than_everybody_holds_for_himself_counts() -> None:
    assert exceeds(a_user("bob"), [Held(ScopeKind.USER, "ada", frozenset({"user:purge"}))], them="ada", domains=DOMAINS)


def test_a_scope_in_no_known_domain_is_covered_by_no_domain() -> None:
    assert exceeds(RED_ADMIN, a_user("ada", "p-unknown"), them="ada", domains=DOMAINS)


def test_a_permission_that_has_no_effect_where_it_is_held_is_nothing() -> None:
    idle = [Held(ScopeKind.PROJECT, "q1", frozenset({"agent:update"}))]
    assert not exceeds(ADA, idle, them="bob", domains=DOMAINS)
    assert exceeds(ADA, [Held(ScopeKind.GLOBAL, "", frozenset({"agent:update"}))], them="bob", domains=DOMAINS)
