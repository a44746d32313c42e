"""Every resolver."""

from __future__ import annotations

from api.graphql.resolvers import powers, sessions, tenants
from api.graphql.scalars import SCALARS

BINDABLES = [
    *SCALARS,
    sessions.query,
    sessions.session,
    tenants.query,
    tenants.mutation,
    *tenants.OBJECTS,
    powers.query,
    powers.mutation,
]
