"""What one GraphQL request may ask for, measured before anything is resolved."""

from __future__ import annotations

from ariadne.validation import cost_validator
from graphql import (
    ASTValidationRule,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    parse,
)

MAX_DEPTH = 12
MAX_COST = 5000  # as the schema's @cost counts: a list costs its page, a change 500
MAX_TOKENS = 4000


def parsed(query: str) -> DocumentNode:
    """The document, if it is neither too long nor nested too deep."""
    document = parse(query, max_tokens=MAX_TOKENS)
    heights = _Heights(document)
    for one in document.definitions:
        if isinstance(one, OperationDefinitionNode) and heights.of(one.selection_set) > MAX_DEPTH:
            raise GraphQLError(f"the query is nested deeper than {MAX_DEPTH} levels; ask for less at once")
    return document


def cost_rule(variables: dict[str, object] | None) -> type[ASTValidationRule]:
    """Refuses what costs more than MAX_COST; each alias counts."""
    return cost_validator(MAX_COST, default_cost=1, default_complexity=1, variables=variables)


class _Heights:
    """How deep selections go; each fragment is measured once, however often it is spread."""

    def __init__(self, document: DocumentNode) -> None:
        self._fragments = {
            one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)
        }
        self._known: dict[str, int] = {}

    def of(self, selections: SelectionSetNode | None) -> int:
        if selections is None:
            return 0
        return max((self._one(one) for one in selections.selections), default=0)

    def _one(self, selection: SelectionNode) -> int:
        if isinstance(selection, FieldNode):
            return 1 + self.of(selection.selection_set)
        if isinstance(selection, InlineFragmentNode):
            return self.of(selection.selection_set)
        return self._spread(selection.name.value) if isinstance(selection, FragmentSpreadNode) else 0

    def _spread(self, name: str) -> int:
        if name not in self._fragments:
            return 0  # the validation says so
        if name not in self._known:
            self._known[name] = MAX_DEPTH + 1  # met again within itself: endless
            self._known[name] = self.of(self._fragments[name].selection_set)
        return self._known[name]
