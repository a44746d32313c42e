"""The docs name everything that exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from agent_worker.accelerators import found
from api.group_schemas import GroupOptions, PutLimit
from api.main import build
from moorage import plugins
from moorage.cli.main import app as moor
from moorage.scheduler.order import ORDERS
from moorage.scheduler.score import SELECTORS
from moorage.settings import CLIENT_VARIABLES, Settings
from tests.support.builders import KEYS

DOCS = Path(__file__).parents[2] / "docs"


def test_each_setting_is_documented() -> None:
    text = (DOCS / "operations.md").read_text()
    names = {f"MOORAGE_{name.upper()}" for name in Settings.model_fields} | CLIENT_VARIABLES
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_each_verb_is_documented() -> None:
    text = (DOCS / "operations.md").read_text()
    assert [verb for verb in _verbs(typer.main.get_command(moor)) if f"`{verb}`" not in text] == []


def _verbs(command: Any, path: str = "moor") -> Iterator[str]:
    """With those of nouns in nouns; a noun that does something by itself is a verb too."""
    if not isinstance(command, TyperGroup):
        yield path
        return
    if command.invoke_without_command:
        yield path
    context = typer.Context(command)
    for name in command.list_commands(context):
        yield from _verbs(command.get_command(context, name), f"{path} {name}")


def test_each_route_is_documented() -> None:
    text = (DOCS / "api.md").read_text()
    settings = Settings(
        database_url="postgresql://x/x", payload_keys=KEYS, jwt_keys="k1:" + "j" * 32, dataplane_key="d" * 32
    )
    routes = [
        f"{method.upper()} {path}"
        for path, operations in build(settings).openapi()["paths"].items()
        for method in operations
    ]
    assert [route for route in routes if f"`{route}`" not in text] == []


def test_each_order_selector_and_option_is_documented() -> None:
    text = (DOCS / "scheduling.md").read_text()
    words = [
        *ORDERS,
        *SELECTORS,
        *GroupOptions.model_fields,
        *PutLimit.model_fields,
        plugins.ORDERS_GROUP,
        plugins.SELECTORS_GROUP,
    ]
    assert [word for word in words if f"`{word}`" not in text] == []


def test_each_documented_option_and_limit_exists() -> None:
    text = (DOCS / "scheduling.md").read_text()
    for heading, model in (("## Options of a group", GroupOptions), ("## Limits", PutLimit)):
        section = text.split(heading)[1].split("\n## ")[0]
        rows = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
        assert rows == list(model.model_fields)


def test_each_documented_default_is_the_one_in_force() -> None:
    section = (DOCS / "scheduling.md").read_text().split("## Options of a group")[1].split("\n## ")[0]
    cells = [[cell.strip(" `") for cell in line.split("|")[1:3]] for line in section.splitlines() if "| `" in line]
    defaults = GroupOptions().model_dump(mode="json")
    assert {name: "all" if value == [] else f"{value:g}" if isinstance(value, float) else str(value)
            for name, value in defaults.items()} == dict(cells)  # fmt: skip


def test_each_code_of_a_refusal_is_documented() -> None:
    text = (DOCS / "api.md").read_text()
    root = DOCS.parent
    sources = [path for room in ("api", "moorage/db", "moorage/domain") for path in (root / room).rglob("*.py")]
    codes = {code for path in sources for code in re.findall(r'\bcode ?= ?"([a-z-]+)"', path.read_text())}
    codes -= {"internal-error", "conflict", "missing-setting", "invalid-setting", "unknown-setting"}
    assert len(codes) > 80
    assert [code for code in sorted(codes) if f"`{code}`" not in text] == []


def test_each_group_of_plug_ins_is_documented() -> None:
    text = (DOCS / "plugins.md").read_text()
    groups = (plugins.ORDERS_GROUP, plugins.SELECTORS_GROUP, found.GROUP)
    assert [one for one in (*groups, *found.BUILT_IN) if f"`{one}`" not in text] == []
