"""What every kind of source must keep, whatever it reads."""

from __future__ import annotations

from evenhand.sources.records import Skipped, Source, SourceItem

Found = list[SourceItem | Skipped]


def keys(found: Found) -> list[str]:
    """The keys, in order."""
    return [item.key for item in found]


def pictures(source: Source) -> list[SourceItem]:
    """What a source gives as pictures."""
    return [item for item in source.items() if isinstance(item, SourceItem)]


def reasons(source: Source) -> dict[str, str]:
    """Why places of a source give no picture."""
    return {item.key: item.reason for item in source.items() if isinstance(item, Skipped)}


def check_sharing(source: Source) -> None:
    """Every place comes once and in the same order, to one rank of however many, in whole blocks; or not at all."""
    everything = list(source.items())
    assert list(source.items()) == everything
    assert len(set(keys(everything))) == len(everything) > 4
    for num_ranks in (2, 3):
        assert [list(source.items(rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks)] == [
            everything[rank::num_ranks] for rank in range(num_ranks)
        ]
    first, second = (list(source.items(rank=rank, num_ranks=2, block=2)) for rank in (0, 1))
    assert first == [item for number, item in enumerate(everything) if number % 4 < 2]
    assert second == [item for number, item in enumerate(everything) if number % 4 >= 2]
    asked: list[str] = []
    wanted = set(keys(everything)[::3])

    def only(key: str) -> bool:
        asked.append(key)
        return key in wanted

    assert list(source.items(only=only)) == everything[::3]
    assert asked == keys(everything)
