"""Which columns of a source say what about a picture, and how their values are called here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from evenhand.hygiene.people import Depicts, check_columns
from evenhand.sources.records import SourceItem

CONCEPT = "concept"  # its entry in ``values`` renames concepts
ANY_ATTRIBUTE = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """See the head of this file.

    ``labels`` maps an attribute to its column; a dot leads into a column of mappings (``labels.season``), and ``"*"``
    names a column of mappings from every attribute that it has to its value, as curated sets have it. ``values``
    maps an attribute, or ``concept``, to what its found values mean here; found values are compared as text, and one
    that is not listed stays as it is. A caption that is a list is its first entry.
    """

    text: str | None
    concept: str | None
    labels: Mapping[str, str]
    license: str | None
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = [CONCEPT, *self.labels]
        for name in self.values:
            if name not in known and ANY_ATTRIBUTE not in self.labels:
                raise ValueError(f"columns.values: nothing is read for {name!r}; it may name {', '.join(known)}")
        meant = {
            name: {str(found): str(value) for found, value in entries.items()} for name, entries in self.values.items()
        }
        object.__setattr__(self, "values", meant)

    def names(self) -> list[str]:
        """The columns themselves, each once."""
        paths = [self.text, self.concept, self.license, *self.labels.values()]
        return list(dict.fromkeys(path.split(".")[0] for path in paths if path is not None))

    def check(self, available: Collection[str], *, where: str, also: Iterable[str] = ()) -> None:
        """Raise ValueError for a column that is not there; ``also`` are others that are needed."""
        for name in [*also, *self.names()]:
            if name not in available:
                raise ValueError(
                    f"{where} has no column {name!r}; it has {', '.join(map(str, available)) or 'none'} "
                    "(name its columns in source.columns)"
                )

    def item(
        self, row: Mapping[str, object], *, key: str, content: bytes, concept: str | None, name: str
    ) -> SourceItem:
        """A row's picture with what the row says; ``concept`` is that of all pictures, where no column tells it."""
        paths = {attribute: path for attribute, path in self.labels.items() if attribute != ANY_ATTRIBUTE}
        column = self.labels.get(ANY_ATTRIBUTE)
        every = None if column is None else _at(row, column)
        if isinstance(every, Mapping):
            paths = {**{str(attribute): f"{column}.{attribute}" for attribute in every}, **paths}
        labels = {attribute: self._value(row, path, attribute) for attribute, path in paths.items()}
        return SourceItem(
            key=key,
            content=content,
            text=None if self.text is None else _text(_at(row, self.text)),
            concept=concept if self.concept is None else self._value(row, self.concept, CONCEPT),
            labels={attribute: value for attribute, value in labels.items() if value is not None},
            license=None if self.license is None else _text(_at(row, self.license)),
            source=name,
        )

    def _value(self, row: Mapping[str, object], path: str, attribute: str) -> str | None:
        found = _text(_at(row, path))
        return None if found is None else self.values.get(attribute, {}).get(found, found)


def check_use(columns: Columns, concept: str | None, *, name: str, depicts: Depicts) -> None:
    """Raise ValueError for columns that say who people are, and when two places say what the pictures show."""
    check_columns(depicts, columns.names(), source=name)
    if concept is not None and columns.concept is not None:
        raise ValueError(
            f"source {name}: columns.concept={columns.concept} and concept={concept} both say what its pictures show; "
            "set one of them to null"
        )


def _at(row: Mapping[str, object], path: str) -> object:
    value: object = row
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def _text(value: object) -> str | None:
    """A found value as text; None for nothing, which an empty text is too."""
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return None if value is None or value == "" else str(value)
