"""What the claims of an identity provider mean here: domain, projects, rank and names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moorage.db.vouched import Vouched
from moorage.domain.errors import Forbidden, InvalidRequest
from moorage.domain.tenancy import Rank

_HIGHEST_FIRST = tuple(Rank)
_LONGEST = 254


class Rule(BaseModel):
    """`claim` is a name, or a path with dots; `values` says what each of its values is called here."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    claim: str
    values: dict[str, str] = Field(default_factory=dict)


class Ranks(BaseModel):
    """Only a value that is named gives a rank."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    claim: str
    values: dict[str, Rank]


class Claims(BaseModel):
    """The setting MOORAGE_OIDC_CLAIMS. What it leaves out, the provider doesn't decide."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    domain: Rule | None = None
    default_domain: str = Field("default", description="of new users, where the claim names none")
    projects: Rule | None = None
    roles: Ranks | None = None
    name: str = "name"
    email: str = "email"


def claims_of(setting: str) -> Claims:
    try:
        return Claims.model_validate_json(setting or "{}")
    except ValidationError as error:
        words = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InvalidRequest(f"MOORAGE_OIDC_CLAIMS: {words}"[:500], code="missing-setting") from None


def vouched(rules: Claims, claims: Mapping[str, Any]) -> Vouched:
    """The user that an ID token speaks of. Forbidden without an e-mail address."""
    emails = _texts(claims, rules.email)
    if not emails or "@" not in emails[0] or claims.get("email_verified") is False:
        raise Forbidden("the provider vouches for no e-mail address", code="no-email", hint="ask for the scope email")
    return Vouched(
        issuer=str(claims["iss"]),
        subject=str(claims["sub"]),
        email=emails[0].lower(),
        email_is_verified=claims.get("email_verified") is True,
        name=next(iter(_texts(claims, rules.name)), ""),
        domain=None if rules.domain is None else _domain(rules.domain, claims, rules.default_domain),
        default_domain=rules.default_domain,
        projects=None if rules.projects is None else tuple(dict.fromkeys(_meant(rules.projects, claims))),
        role=None if rules.roles is None else _rank(rules.roles, claims),
    )


def _domain(rule: Rule, claims: Mapping[str, Any], default: str) -> str:
    """The first that the claim names, else the default."""
    domain = next(iter(_meant(rule, claims)), default)
    if not domain:
        raise Forbidden("the provider's claims lead to no domain here", code="no-domain")
    return domain


def _rank(ranks: Ranks, claims: Mapping[str, Any]) -> str:
    held = {ranks.values[one] for one in _texts(claims, ranks.claim) if one in ranks.values}
    return next((str(rank) for rank in _HIGHEST_FIRST if rank in held), str(Rank.USER))


def _meant(rule: Rule, claims: Mapping[str, Any]) -> list[str]:
    found = _texts(claims, rule.claim)
    return [rule.values[one] for one in found if one in rule.values] if rule.values else found


def _texts(claims: Mapping[str, Any], path: str) -> list[str]:
    """The claim's strings, one or many; nothing where it is something else."""
    value: Any = claims.get(path)
    if value is None and "." in path:
        value = claims
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    several = value if isinstance(value, list) else [value]
    return [one for one in several if isinstance(one, str) and 0 < len(one) <= _LONGEST and "\0" not in one]
