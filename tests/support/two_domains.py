"""Two domains with people of every kind, for whoever asks who may do what.

alpha has the projects one and two, beta has one. `ada` and `ben` work in alpha/one, `cleo` in alpha/two, `dan` in
beta/one. `pia` administers alpha/one, `dora` the domain alpha; `mona` sees everything, `root` may everything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.domain.ids import new_access_key, new_id, new_secret_key
from moorage.seal import Seal
from tests.support.builders import KEYS
from tests.support.gateway import basic

PEOPLE = {  # name → (rank, domain, project)
    "root": ("superadmin", "alpha", "one"),
    "mona": ("monitor", "alpha", "two"),
    "dora": ("admin", "alpha", "two"),
    "pia": ("user", "alpha", "one"),
    "ada": ("user", "alpha", "one"),
    "ben": ("user", "alpha", "one"),
    "cleo": ("user", "alpha", "two"),
    "dan": ("user", "beta", "one"),
}


@dataclass(frozen=True, slots=True)
class Person:
    user_id: str
    email: str
    domain: str
    project: str
    project_id: str
    access_key: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Tenants:
    people: dict[str, Person]
    projects: dict[str, str] = field(default_factory=dict)  # domain/project → id

    def __getitem__(self, name: str) -> Person:
        return self.people[name]


async def settle(engine: AsyncEngine) -> Tenants:
    """All of them, by SQL: nothing that is tested is used for it."""
    projects = {f"{domain}/{name}": new_id() for domain, name in (("alpha", "one"), ("alpha", "two"), ("beta", "one"))}
    seal, people = Seal(KEYS), {}
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO domains (name) VALUES ('alpha'), ('beta')"))
        for path, project_id in projects.items():
            await connection.execute(
                text("INSERT INTO projects (id, domain, name) VALUES (:id, :domain, :name)"),
                {"id": project_id, "domain": path.split("/")[0], "name": path.split("/")[1]},
            )
        for name, (rank, domain, project) in PEOPLE.items():
            secret = new_secret_key()
            person = Person(
                new_id(), f"{name}@{domain}.org", domain, f"{domain}/{project}", projects[f"{domain}/{project}"],
                access_key := new_access_key(), basic(access_key, secret),
            )  # fmt: skip
            await connection.execute(
                text(_PERSON),
                {
                    "id": person.user_id, "email": person.email, "role": rank, "domain": domain,
                    "project": person.project_id, "key": access_key, "secret": seal.seal(secret.encode()),
                },
            )  # fmt: skip
            people[name] = person
        await connection.execute(
            text(
                "INSERT INTO role_assignments (id, user_id, role, scope_kind, scope_id, granted_by)"
                " VALUES (gen_random_uuid(), :user, 'project-admin', 'project', :project, 'test')"
            ),
            {"user": people["pia"].user_id, "project": projects["alpha/one"]},
        )
    return Tenants(people, projects)


_PERSON = (
    "WITH u AS (INSERT INTO users (id, email, role, domain, project_id) VALUES (:id, :email, :role, :domain, :project)"
    " RETURNING id, project_id),"
    " m AS (INSERT INTO memberships (user_id, project_id) SELECT id, project_id FROM u)"
    " INSERT INTO keypairs (access_key, user_id, secret, policy, rate_limit) SELECT :key, id, :secret, 'default', NULL"
    " FROM u"
)
