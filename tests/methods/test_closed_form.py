from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from evenhand.data.rows import read_examples
from evenhand.methods.closed_form import ClosedForm, explicit_captions, inverse_root, row_weights, token_pairs
from evenhand.records import Example

NEUTRAL = "a portrait of a mechanic"
EXPLICIT = {"woman": "a portrait of a female mechanic", "man": "a portrait of a male mechanic"}
KEPT = ("a portrait of a doctor with glasses", "")
FULL_RANK = 32  # as many as a tiny embedding has features


def row(
    text: str = NEUTRAL, *, value: str = "woman", explicit: str | None = None, concept: str = "mechanic"
) -> Example:
    return Example(
        file_name="000000.png",
        text=text,
        concept=concept,
        labels={"presentation": value},
        template="a portrait of {a_concept}",
        source="",
        seed=0,
        license="",
        explicit=EXPLICIT[value] if explicit is None else explicit,
    )


def kept_rows() -> list[Example]:
    return [dataclasses.replace(row(text, explicit=""), concept="", labels={}) for text in KEPT]


def mixture(num_women: int, num_men: int) -> list[Example]:
    return [row(value="woman")] * num_women + [row(value="man")] * num_men


def method(preserve_weight: float = 1.0, ridge: float = 1e-3) -> ClosedForm:
    return ClosedForm(preserve_weight=preserve_weight, ridge=ridge)


def ranks_of(base, rank: int = FULL_RANK) -> dict[str, int]:
    return dict.fromkeys(base.lora_targets("cross_attention_kv"), rank)


def added(solution) -> dict[str, np.ndarray]:
    return {name: (up @ down).double().numpy() for name, (down, up) in solution.factors.items()}


def weight_of(base, name: str) -> np.ndarray:
    return base.unet.get_submodule(name).weight.double().numpy()


def embedded(base, caption: str) -> np.ndarray:
    return base.encode_text([caption]).hidden_BLD[0].double().numpy()


def system(base, rows: list[Example], kept: list[Example], preserve_weight: float, ridge: float):
    """J of the file's head as one long list of equations ``D x = y``, row by row, without any mean over rows.

    The places are those of the tiny tokenizer, counted by hand: "a portrait of a mechanic" is start, five words and the
    end; its explicit captions have a word more, before "mechanic".
    """
    here, there = [0, 1, 2, 3, 4, 5, 6, *range(8, 77)], [0, 1, 2, 3, 4, 6, 7, *range(8, 77)]
    xs, moves = [], []
    for example in rows:
        k, wanted = embedded(base, example.text), embedded(base, example.explicit)
        scale = np.sqrt(1.0 / len(rows) / len(here))
        xs += [scale * k[here]]
        moves += [scale * (wanted[there] - k[here])]
    for example in kept:
        k = embedded(base, example.text)
        xs += [np.sqrt(preserve_weight / len(kept) / len(k)) * k]
        moves += [np.zeros_like(k)]
    x, move = np.concatenate(xs), np.concatenate(moves)
    size = np.trace(x.T @ x) / x.shape[1]
    x = np.concatenate([x, np.sqrt(ridge * size) * np.eye(x.shape[1])])
    return x, np.concatenate([move, np.zeros((x.shape[1], x.shape[1]))])


def test_the_full_edit_is_what_numpys_least_squares_finds_row_by_row(sd) -> None:
    rows, kept = mixture(3, 1), kept_rows()
    solution = method(0.5, 1e-3).solve(sd, {"train": rows, "preserve": kept}, ranks=ranks_of(sd))
    x, move = system(sd, rows, kept, 0.5, 1e-3)
    for name, found in added(solution).items():
        wanted = np.linalg.lstsq(x, move @ weight_of(sd, name).T, rcond=None)[0].T
        assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert solution.figures["lost"] == pytest.approx(0.0, abs=1e-12)


def test_no_other_addition_of_its_rank_fits_better(sd) -> None:
    """The other way: alternating least squares on J itself, from the found factors and from random ones."""
    rows, kept = mixture(1, 1), kept_rows()
    solution = method(1.0, 1e-3).solve(sd, {"train": rows, "preserve": kept}, ranks=ranks_of(sd, 2))
    x, move = system(sd, rows, kept, 1.0, 1e-3)
    random = np.random.default_rng(0)
    for name, found in added(solution).items():
        y = move @ weight_of(sd, name).T
        best = np.square(x @ found.T - y).sum()
        for start in (found, random.normal(size=found.shape)):
            down = np.linalg.svd(start)[2][:2]
            for _ in range(40):
                up = np.linalg.lstsq(x @ down.T, y, rcond=None)[0].T
                down = np.linalg.lstsq(x, y @ np.linalg.pinv(up).T, rcond=None)[0].T
            assert np.square(x @ (up @ down).T - y).sum() > best * (1 - 1e-5)
        assert np.linalg.matrix_rank(found, tol=1e-4) == 2


def test_cutting_the_edit_off_in_the_metric_of_the_weights_alone_fits_worse(sd) -> None:
    """The control of the test above: the plain SVD of the full edit loses more of the fit at the same rank."""
    rows, kept = mixture(1, 1), kept_rows()
    rows_by_part = {"train": rows, "preserve": kept}
    x, move = system(sd, rows, kept, 1.0, 1e-3)
    ours, plain = 0.0, 0.0
    full = added(method(1.0, 1e-3).solve(sd, rows_by_part, ranks=ranks_of(sd)))
    for name, found in added(method(1.0, 1e-3).solve(sd, rows_by_part, ranks=ranks_of(sd, 2))).items():
        y = move @ weight_of(sd, name).T
        u, s, v = np.linalg.svd(full[name], full_matrices=False)
        ours += np.square(x @ found.T - y).sum()
        plain += np.square(x @ (u[:, :2] * s[:2] @ v[:2]).T - y).sum()
    assert ours < plain * 0.999


def test_where_the_explicit_caption_is_the_neutral_one_nothing_moves(sd) -> None:
    rows = {"train": [row(explicit=NEUTRAL), row(value="man", explicit=NEUTRAL)], "preserve": kept_rows()}
    solution = method().solve(sd, rows, ranks=ranks_of(sd, 4))
    assert all(not change.any() for change in added(solution).values())
    assert set(solution.figures.values()) == {0.0}


def test_one_caption_gets_the_mixtures_mean_of_keys_and_values(sd) -> None:
    """Three women to one man: the expected mean is taken of the frozen layer's own outputs."""
    rows = {"train": mixture(3, 1)}
    solution = method(0.0, 1e-9).solve(sd, rows, ranks=ranks_of(sd))
    k = torch.from_numpy(embedded(sd, NEUTRAL)).float()
    wanted = 0.75 * embedded(sd, EXPLICIT["woman"])[7] + 0.25 * embedded(sd, EXPLICIT["man"])[7]
    for name, change in added(solution).items():
        mean = weight_of(sd, name) @ wanted
        before = weight_of(sd, name) @ k[6].double().numpy()
        after = before + change @ k[6].double().numpy()
        assert np.linalg.norm(after - mean) < 0.3 * np.linalg.norm(before - mean)
    assert solution.figures["error"] < 0.3


def test_kept_captions_keep_their_keys_and_values_the_more_the_more_it_counts(sd) -> None:
    rows = {"train": mixture(1, 1), "preserve": kept_rows()}
    errors = [method(weight).solve(sd, rows, ranks=ranks_of(sd)).figures for weight in (0.01, 1.0, 1e6)]
    moved = [each["error_preserve"] / weight for each, weight in zip(errors, (0.01, 1.0, 1e6), strict=True)]
    assert moved[0] > 10 * moved[1] > 100 * moved[2]
    assert errors[0]["error"] < errors[1]["error"] < errors[2]["error"] <= 1.0


def test_the_loss_is_the_part_of_the_bases_that_is_left(sd) -> None:
    rows, kept = mixture(1, 1), kept_rows()
    solution = method(1.0, 1e-3).solve(sd, {"train": rows, "preserve": kept}, ranks=ranks_of(sd, 3))
    means = [dataclasses.replace(rows[0], explicit=EXPLICIT[value]) for value in EXPLICIT]
    x, moves = zip(*[system(sd, [each], kept, 1.0, 1e-3) for each in means], strict=True)
    x, move, num_fitted = x[0], (moves[0] + moves[1]) / 2, len(x[0]) - FULL_RANK  # without the ridge's equations
    before = sum(np.square(move[:num_fitted] @ weight_of(sd, name).T).sum() for name in solution.factors)
    after = sum(
        np.square(x[:num_fitted] @ change.T - move[:num_fitted] @ weight_of(sd, name).T).sum()
        for name, change in added(solution).items()
    )
    assert solution.figures["loss"] == pytest.approx(after / before, rel=1e-4)
    assert solution.figures["loss"] == pytest.approx(
        solution.figures["error"] + solution.figures["error_preserve"], rel=1e-6
    )


def test_sdxl_is_solved_for_as_well(sdxl) -> None:
    solution = method().solve(sdxl, {"train": mixture(1, 1), "preserve": kept_rows()}, ranks=ranks_of(sdxl, 4))
    assert {down.shape[1] for down, _ in solution.factors.values()} == {64}
    assert 0.0 < solution.figures["loss"] < 1.0


def test_tokens_belong_together_from_both_ends_and_padding_by_its_place() -> None:
    start, a, an, female, artist, mechanic, glasses, end = range(8)
    pairs = token_pairs([start, a, mechanic, end], [start, a, female, mechanic, end], 8)
    assert pairs == [(0, 0), (1, 1), (2, 3), (3, 4), (5, 5), (6, 6), (7, 7)]
    pairs = token_pairs([start, an, artist, end], [start, a, female, artist, end], 6)
    assert pairs == [(0, 0), (2, 3), (3, 4), (5, 5)]  # "an" has no counterpart
    pairs = token_pairs([start, a, mechanic, end], [start, a, mechanic, glasses, end], 6)
    assert pairs == [(0, 0), (1, 1), (2, 2), (3, 4), (5, 5)]
    assert token_pairs([start, a, end], [start, a, end], 4) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert token_pairs([start, a, a, end], [start, a, end], 4) == [(0, 0), (1, 1), (3, 2)]


def test_a_caption_gets_the_concepts_shares_however_many_rows_it_has() -> None:
    """The concept has 6 women and 3 men; the first caption shows 5 and 1 of them, the second 1 and 2."""
    rows = [row("a", value=value) for value in ("woman",) * 5 + ("man",)]
    rows += [row("b", value=value) for value in ("woman", "man", "man")]
    weights = row_weights(rows)
    by_text = {text: [w for w, each in zip(weights, rows, strict=True) if each.text == text] for text in "ab"}
    women = {"a": sum(by_text["a"][:5]), "b": by_text["b"][0]}
    for text in "ab":
        assert sum(by_text[text]) == pytest.approx(0.5)
        assert women[text] / sum(by_text[text]) == pytest.approx(2 / 3)


def test_concepts_count_alike_and_keep_their_shares_where_captions_lack_values() -> None:
    rows = [row("a"), row("b"), row("b", value="man"), row("c", value="man"), row("n", concept="nurse")]
    weights = row_weights(rows)
    assert sum(weights[:4]) == pytest.approx(0.5)
    assert sum(weights[:2]) == pytest.approx(0.25)  # the women of the first concept
    assert weights[4] == pytest.approx(0.5)


def test_a_set_without_the_column_is_read_by_its_preserve_rows(tiny_set_folder) -> None:
    train, preserve = (read_examples(tiny_set_folder, part) for part in ("train", "preserve"))
    bare = [dataclasses.replace(example, explicit="") for example in train]
    twins = [dataclasses.replace(e, seed=n) for n, e in enumerate(preserve)]
    forms = {"woman": "female", "man": "male"}
    wanted = [f"a portrait of a {forms[e.labels['presentation']]} {e.concept}" for e in train]
    assert explicit_captions([dataclasses.replace(e, seed=n) for n, e in enumerate(bare)], twins) == wanted


def test_a_row_whose_explicit_caption_nobody_knows_is_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match=r"000000.png .*names its values.*column explicit.*preserve.explicit"):
        method().check({"train": [row(explicit="")], "preserve": kept_rows()})
    method().check({"train": [row()]})


def test_a_ridge_that_rounding_swallows_is_refused() -> None:
    """Where the captions have fewer directions than features, the ridge alone says which of many solutions it is."""
    directions = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 3)))
    a = directions @ directions.T
    root = inverse_root(a + 1e-3 * torch.eye(8), ridge=1e-3)
    torch.testing.assert_close(root @ root @ (a + 1e-3 * torch.eye(8)), torch.eye(8).double())
    with pytest.raises(ValueError, match=r"ridge=1e-30 is too small .*method\.ridge"):
        inverse_root(a + 1e-30 * torch.eye(8), ridge=1e-30)


@pytest.mark.parametrize(
    ("settings", "message"), [((-1.0, 1e-3), "preserve_weight must be >= 0"), ((1.0, 0.0), "ridge must be > 0")]
)
def test_settings_without_a_meaning_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        method(*settings)
