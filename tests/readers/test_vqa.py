"""The VQA reader on a tiny Idefics3 (the class of the first SmolVLM models) with its real processor.

A random model answers nothing in particular. Where a test needs a model that knows an answer, the rows of its head for
the letters are solved so that they give the wanted scores on the states that the model really has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from evenhand.readers.vqa import LoadedVqa, Question, Vqa, _letter_tokens
from tests.tiny_readers import save_chat

QUESTION = Question(
    text="What does the person look like?",
    values={"woman": "a woman", "man": "a man"},
    nobody="there is no person",
    cannot_tell="it cannot be told",
    missing="no person found",
)
WOMAN, MAN, NOBODY, CANNOT_TELL = range(4)
RED, BLUE, GREY, WHITE = (Image.new("RGB", (40, 40), color) for color in ("red", "blue", (90, 90, 90), "white"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat(tmp_path_factory.mktemp("chat"))


def choice(folder: Path, **changes: Any) -> Vqa:
    given: dict[str, Any] = {
        "name": "tiny",
        "model": str(folder),
        "revision": None,
        "license": "none",
        "validated_on": "nothing",
        "subjects": None,
        "questions": {"presentation": QUESTION},
        "orders": "both",
        "min_mass": 0.0,
        "min_lead": 0.2,
    }
    return Vqa(**{**given, **changes})


def loaded(folder: Path, **changes: Any) -> LoadedVqa:
    return choice(folder, **changes).load(device=torch.device("cpu"))


def state(reader: LoadedVqa, picture: Image.Image, order: tuple[int, ...]) -> torch.Tensor:
    """What the model's head sees behind the question."""
    with torch.no_grad():
        given = reader.inputs(picture, QUESTION.prompt(order))
        states = reader._network(**given, output_hidden_states=True).hidden_states
    return states[-1][0, -1].double()


def taught(folder: Path, answers: Sequence[tuple[Image.Image, int]]) -> LoadedVqa:
    """A reader whose model gives the letter of an option, whatever its place, a logit of 4 for each picture."""
    reader = loaded(folder)
    rows, wanted = [], []
    for picture, option in answers:
        for order in QUESTION.orders("both"):
            rows.append(state(reader, picture, order))
            wanted.append([4.0 if order[place] == option else 0.0 for place in range(4)])
    solved = torch.linalg.lstsq(torch.stack(rows), torch.tensor(wanted, dtype=torch.float64)).solution
    with torch.no_grad():
        reader._network.lm_head.weight.zero_()
        for place, tokens in enumerate(reader._letters):
            reader._network.lm_head.weight[tokens[0]] = solved[:, place].float()
    return reader


@pytest.fixture(scope="module")
def knowing(folder: Path) -> LoadedVqa:
    return taught(folder, [(RED, WOMAN), (BLUE, MAN), (GREY, NOBODY), (WHITE, CANNOT_TELL)])


def test_an_answer_that_does_not_depend_on_the_order_is_read(knowing: LoadedVqa) -> None:
    """Of both letters' tokens, one has a logit of 4 and the rest 0: an option's mass is e^4 + 1 against 2 and 2."""
    woman, man = (knowing.read([picture])[0][0] for picture in (RED, BLUE))
    assert (woman.value, man.value) == ("woman", "man")
    expected = (math.e**4 + 1) / (math.e**4 + 1 + 2)
    assert woman.probs == pytest.approx((expected, 1 - expected), abs=0.02)
    assert man.probs == pytest.approx((1 - expected, expected), abs=0.02)


def test_nobody_and_cannot_tell_are_no_values(knowing: LoadedVqa) -> None:
    nobody, cannot_tell = (knowing.read([picture])[0][0] for picture in (GREY, WHITE))
    assert (nobody.value, cannot_tell.value) == (None, None)
    assert str(nobody.unread).startswith("no person found (there is no person 0.")
    assert str(cannot_tell.unread).startswith("cannot tell (0.")


def test_a_model_that_always_takes_the_first_option_is_unread(folder: Path) -> None:
    """In the one order A is "a woman", in the other "it cannot be told": the reason names both."""
    reader = loaded(folder)
    rows = torch.stack([state(reader, RED, order) for order in QUESTION.orders("both")])
    first = torch.linalg.lstsq(rows, torch.full((2, 1), 4.0, dtype=torch.float64)).solution[:, 0]
    with torch.no_grad():
        reader._network.lm_head.weight.zero_()
        reader._network.lm_head.weight[reader._letters[0]] = first.float()
    (reading,) = reader.read([RED])[0]
    assert reading.value is None
    assert "depends on the order of the options (a woman 0.9" in str(reading.unread)
    assert "it cannot be told 0.9" in str(reading.unread)


def test_a_model_that_says_something_else_has_not_answered(folder: Path) -> None:
    """All tokens are equally likely: the letters have 8 of them."""
    reader = loaded(folder, min_mass=0.3)
    with torch.no_grad():
        reader._network.lm_head.weight.zero_()
    mass = 8 / reader._network.lm_head.weight.shape[0]
    assert reader.read([RED])[0][0].unread == f"no answer (letters have {mass:.2f} of the first token)"


def test_letter_probabilities_are_those_of_the_models_own_forward_pass(folder: Path) -> None:
    """The inputs are made by hand: the chat template written out, and the processor called on its text."""
    reader = loaded(folder)
    prompt = QUESTION.prompt((0, 1, 2, 3))
    text = f"User:<image>{prompt}<end_of_utterance>\nAssistant:"
    given = reader._processor(text=[text], images=[RED], return_tensors="pt")
    with torch.no_grad():
        probs = reader._network(**given).logits[0, -1].double().softmax(dim=0)
    tokenizer = reader._processor.tokenizer
    expected = [
        float(probs[tokenizer.convert_tokens_to_ids(letter)] + probs[tokenizer.convert_tokens_to_ids(f"Ġ{letter}")])
        for letter in "ABCD"
    ]
    assert reader.letter_probs(RED, prompt) == pytest.approx(expected, abs=1e-6)


def test_a_prompt_has_each_option_behind_its_letter() -> None:
    assert QUESTION.prompt((3, 0, 2, 1)) == (
        "What does the person look like?\nA. it cannot be told\nB. a woman\nC. there is no person\nD. a man\n"
        "Answer with the letter of one option."
    )


def test_both_orders_are_two_and_all_are_every_one() -> None:
    assert QUESTION.orders("both") == [(0, 1, 2, 3), (3, 2, 1, 0)]
    assert len(set(QUESTION.orders("all"))) == 24


def test_a_tokenizer_without_letters_is_refused(folder: Path) -> None:
    words = Tokenizer(WordLevel({"<unk>": 0, "A": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    assert _letter_tokens(choice(folder), tokenizer, "A") == [1]
    with pytest.raises(ValueError, match="has no token for 'B' alone"):
        _letter_tokens(choice(folder), tokenizer, "B")


def test_settings_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="different options for two values or more"):
        Question(text="?", values={"one": "a", "two": "a"}, nobody="n", cannot_tell="c", missing="m")
    with pytest.raises(ValueError, match="min_mass must be"):
        choice(folder, min_mass=1.0)
    with pytest.raises(ValueError, match="reader tiny: cannot load"):
        loaded(folder / "nothing")
