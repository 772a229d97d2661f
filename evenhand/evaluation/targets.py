"""Targets as a choice: what distribution is wanted over an attribute's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evenhand.records import Attribute, Target


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every declared value equally often, for every concept."""

    def targets(self, attribute: Attribute) -> tuple[Target, ...]:
        """The target of an attribute."""
        count = len(attribute.values)
        return (Target(attribute=attribute.name, shares=(1.0 / count,) * count, source="uniform"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Explicit shares with their source; ``rows`` maps a concept, or ``"*"`` for others, to shares in value order."""

    rows: Mapping[str, Sequence[float]]
    source: str

    def targets(self, attribute: Attribute) -> tuple[Target, ...]:
        """The targets of an attribute; ValueError when a row does not fit its values."""
        targets = tuple(
            Target(attribute=attribute.name, shares=tuple(shares), concept=concept, source=self.source)
            for concept, shares in self.rows.items()
        )
        for target in targets:
            target.check(attribute)
        return targets
