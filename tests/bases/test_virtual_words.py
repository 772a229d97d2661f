"""Virtual words in the real text encoders: what these read is seen behind their input embeddings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from evenhand.bases.virtual_words import VirtualWords
from evenhand.interfaces import TextEmbedding

KNOWN = ("mechanic", "nurse", "doctor")
NEUTRAL, EXPLICIT = "a portrait of a mechanic", "a portrait of a female mechanic"
PLACE = {NEUTRAL: 5, EXPLICIT: 6}  # behind the start


def tokens_of(base, *words: str) -> list[int]:
    """The token of each word, which the tiny tokenizer knows whole."""
    found = [base.token_ids([word])[0][1:-1] for word in words]
    assert all(len(tokens) == 1 for tokens in found)
    return [tokens[0] for tokens in found]


def seen(base, call: Callable[[], object], *, encoder: str = "text_encoder") -> torch.Tensor:
    """The input embeddings, positions included, that an encoder works on during a call."""
    model = base.text_encoders[encoder]
    embeddings = next(module for name, module in model.named_modules() if name.endswith("embeddings"))
    found: list[torch.Tensor] = []
    hook = embeddings.register_forward_hook(lambda _module, _inputs, output: found.append(output.clone()))
    call()
    hook.remove()
    assert len(found) == 1
    return found[0]


def change(base, words: VirtualWords, captions, concepts, seeds, **more) -> torch.Tensor:
    """By how much each caption's input embeddings differ from those of the base's own words."""
    return seen(base, lambda: words.embed(captions, concepts, seeds), **more) - seen(
        base, lambda: base.encode_text(captions), **more
    )


def test_an_equal_seed_gives_an_equal_word_in_both_captions_and_another_seed_another(sd) -> None:
    words = sd.virtual_words(KNOWN)
    found = change(sd, words, [NEUTRAL, EXPLICIT, EXPLICIT], ["mechanic"] * 3, [7, 7, 8])
    neutral, explicit, other = (found[row, PLACE[caption]] for row, caption in enumerate([NEUTRAL, EXPLICIT, EXPLICIT]))
    torch.testing.assert_close(neutral, explicit, rtol=0, atol=1e-6)
    assert (neutral - other).abs().max() > 1e-3
    again = change(sd, sd.virtual_words(KNOWN[::-1]), [NEUTRAL], ["mechanic"], [7])
    assert again[0].equal(found[0])  # the known concepts in whatever order


def test_the_other_tokens_embeddings_are_untouched(sd) -> None:
    found = change(sd, sd.virtual_words(KNOWN), [NEUTRAL, EXPLICIT], ["mechanic"] * 2, [7, 8])
    changed = found.abs().amax(dim=2) > 0
    assert changed.nonzero().tolist() == [[0, PLACE[NEUTRAL]], [1, PLACE[EXPLICIT]]]


def test_a_concept_of_two_tokens_gets_two_and_one_that_stands_twice_the_same_twice(sd) -> None:
    captions = ["a portrait of a doctor nurse", "a nurse with a nurse"]
    found = change(sd, sd.virtual_words(KNOWN), captions, ["doctor nurse", "nurse"], [7, 7])
    assert (found.abs().amax(dim=2) > 0).nonzero().tolist() == [[0, 5], [0, 6], [1, 2], [1, 5]]
    doctor, nurse = sd.text_encoders["text_encoder"].get_input_embeddings().weight[tokens_of(sd, "doctor", "nurse")]
    assert (found[0, 5] + doctor - found[0, 6] - nurse).abs().max() > 1e-3
    torch.testing.assert_close(found[1, 2], found[1, 5], rtol=0, atol=1e-6)


def test_a_concept_stands_only_where_its_tokens_do(sd) -> None:
    words = sd.virtual_words(KNOWN)
    assert words.stands_in("mechanic", NEUTRAL)
    assert words.stands_in("doctor nurse", "a doctor nurse with glasses")
    for concept, caption in (
        ("nurse", NEUTRAL),
        ("mechanic", ""),
        ("mechanic", "a mechanics of"),
        ("", NEUTRAL),
        ("doctor nurse", "a doctor with a nurse"),
    ):
        assert not words.stands_in(concept, caption), (concept, caption)
        with pytest.raises(ValueError, match=f"the concept '{concept}' does not stand in the caption '{caption}'"):
            words.embed([caption], [concept], [0])


def test_drawn_words_have_the_known_words_mean_and_variance(sd) -> None:
    """Against numpy on the rows of the embedding's table, with 4000 draws."""
    words = sd.virtual_words(KNOWN)
    weight = sd.text_encoders["text_encoder"].get_input_embeddings().weight.detach().numpy().astype(np.float64)
    known = weight[tokens_of(sd, *KNOWN)]
    difference = torch.cat(
        [
            change(sd, words, [NEUTRAL] * 500, ["mechanic"] * 500, range(first, first + 500))[:, PLACE[NEUTRAL]]
            for first in range(0, 4000, 500)
        ]
    )
    drawn = difference.numpy() + known[0]
    error = known.std(axis=0) / 4000**0.5
    assert (np.abs(drawn.mean(axis=0) - known.mean(axis=0)) < 5 * error).all()
    assert (np.abs(drawn.mean(axis=0) - known[0]) > 5 * error).any()  # the word that stood there
    assert drawn.var(axis=0) == pytest.approx(known.var(axis=0), rel=0.2)
    assert drawn.var(axis=0).sum() == pytest.approx(known.var(axis=0).sum(), rel=0.03)
    # a half of the variance lies along the differences between known words, and so does a part of the rest, by chance
    span, _ = np.linalg.qr((known - known.mean(axis=0))[:2].T)
    inside = ((drawn - known.mean(axis=0)) @ span).var(axis=0).sum() / drawn.var(axis=0).sum()
    by_chance = (known.var(axis=0) @ (span**2)).sum() / known.var(axis=0).sum()
    assert inside == pytest.approx(0.5 + 0.5 * by_chance, abs=0.03)
    assert by_chance < 0.3


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_embedding_is_that_of_an_encoder_with_the_word_in_its_table(request, family) -> None:
    """SDXL: both encoders have words of their own, and the pooled embedding reads the second's."""
    base = request.getfixturevalue(family)
    words = base.virtual_words(KNOWN)
    plain = base.encode_text([EXPLICIT])
    virtual = words.embed([EXPLICIT], ["mechanic"], [3])
    assert not virtual.hidden_BLD.requires_grad
    (token,) = tokens_of(base, "mechanic")
    for name, encoder in base.text_encoders.items():
        moved = change(base, words, [EXPLICIT], ["mechanic"], [3], encoder=name)[0, PLACE[EXPLICIT]]
        with torch.no_grad():
            encoder.get_input_embeddings().weight[token] += moved
    wanted = base.encode_text([EXPLICIT])
    torch.testing.assert_close(virtual.hidden_BLD, wanted.hidden_BLD, rtol=1e-4, atol=1e-5)
    width = plain.hidden_BLD.shape[2] // len(base.text_encoders)
    for part in virtual.hidden_BLD.sub(plain.hidden_BLD).split(width, dim=2):
        assert part.abs().max() > 1e-3
    if family == "sdxl":
        torch.testing.assert_close(virtual.pooled_BD, wanted.pooled_BD, rtol=1e-4, atol=1e-5)
        assert (virtual.pooled_BD - plain.pooled_BD).abs().max() > 1e-3
    else:
        assert virtual.pooled_BD is None


def test_two_encoders_words_are_not_the_same_draw(sdxl) -> None:
    weights = [encoder.get_input_embeddings().weight.detach() for encoder in sdxl.text_encoders.values()]
    (token,) = tokens_of(sdxl, "mechanic")
    words = sdxl.virtual_words(KNOWN)
    found = [
        change(sdxl, words, [NEUTRAL], ["mechanic"], [3], encoder=name)[0, PLACE[NEUTRAL]] + weight[token]
        for name, weight in zip(sdxl.text_encoders, weights, strict=True)
    ]
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_afterwards_the_encoder_reads_its_own_words_again_also_after_an_error(sd) -> None:
    plain = sd.encode_text([NEUTRAL]).hidden_BLD
    embedding = sd.text_encoders["text_encoder"].get_input_embeddings()
    counts: list[int] = []

    def broken(captions) -> TextEmbedding:
        counts.append(len(embedding._forward_hooks))
        raise RuntimeError("out of memory")

    assert not sd.virtual_words(KNOWN).embed([NEUTRAL], ["mechanic"], [1]).hidden_BLD.equal(plain)
    assert sd.encode_text([NEUTRAL]).hidden_BLD.equal(plain)
    pipeline = sd.pipeline
    words = VirtualWords([(pipeline.tokenizer, pipeline.text_encoder)], broken, KNOWN)
    with pytest.raises(RuntimeError, match="out of memory"):
        words.embed([NEUTRAL], ["mechanic"], [1])
    assert (counts, len(embedding._forward_hooks)) == ([1], 0)
    assert sd.encode_text([NEUTRAL]).hidden_BLD.equal(plain)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_single_known_token_is_refused_in_one_line(request, family) -> None:
    base = request.getfixturevalue(family)
    base.virtual_words(["nurse", "doctor"])
    base.virtual_words(["doctor nurse"])
    with pytest.raises(ValueError, match=r"nurse has 1 token: set method\.virtual_concepts=0") as refused:
        base.virtual_words(["nurse", "nurse"])
    assert "\n" not in str(refused.value)
