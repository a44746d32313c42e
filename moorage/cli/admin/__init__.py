"""`moor admin`: domains, projects, users, key pairs, roles, policies, images and registries."""

from __future__ import annotations

import typer

from moorage.cli.admin import domains, images, keypairs, policies, projects, registries, roles, users

app = typer.Typer(no_args_is_help=True, help="Administer domains, projects, users, key pairs, roles, policies, images.")
_NOUNS = {
    "domain": domains.app,
    "project": projects.app,
    "user": users.app,
    "keypair": keypairs.app,
    "role": roles.app,
    "policy": policies.app,
    "image": images.app,
    "registry": registries.app,
}
for _noun, _sub in _NOUNS.items():
    app.add_typer(_sub, name=_noun)
