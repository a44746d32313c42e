"""Every resolver."""

from __future__ import annotations

from api.graphql.resolvers import sessions
from api.graphql.scalars import SCALARS

BINDABLES = [*SCALARS, sessions.query, sessions.session]
