"""What the page's widgets call, and the page itself through gradio's own client where gradio is installed."""

from __future__ import annotations

import gc
import importlib.util
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evenhand.playground.app import INSTALL, PageSettings, answers, gradio, make_page, serve
from evenhand.playground.pairs import Playground
from tests.playground.made import playground, save_adapter

HAS_GRADIO = importlib.util.find_spec("gradio") is not None
needs_gradio = pytest.mark.skipif(not HAS_GRADIO, reason="gradio is not installed")
# gradio's own, and starlette's and httpx's about it; none of them is about evenhand.
of_gradio = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")


def settings(**changed: Any) -> PageSettings:
    first: dict[str, Any] = {"prompt": "a mechanic", "seed": 0, "num_images": 2, "max_weight": 1.5}
    return PageSettings(**{**first, "host": "127.0.0.1", "port": None, **changed})


@pytest.fixture(scope="module")
def town(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Playground:
    return playground(tiny_folder, [save_adapter(tiny_folder, tmp_path_factory.mktemp("a") / "one", seed=1)])


def images(html: str) -> list[str]:
    """The images of a result in order: base, adapted, base, adapted."""
    return re.findall(r'src="(data:image/png;base64,[^"]+)"', html)


def last(town: Playground, *asked: Any) -> str:
    *_, html = answers(town, settings(), *asked)
    return html


def test_a_result_grows_pair_by_pair(town: Playground) -> None:
    steps = list(answers(town, settings(), "a mechanic", "0", 3, 1.0))
    assert [len(images(html)) for html in steps] == [2, 4, 6]
    assert "even-handed mechanics × 1" in steps[-1]


def test_a_weight_changes_the_adapted_images_alone(town: Playground) -> None:
    off, on = (images(last(town, "a mechanic", "0", 2, weight)) for weight in (0.0, 1.0))
    assert off[0] == off[1] == on[0]
    assert off[2] == off[3] == on[2]
    assert on[1] != on[0]
    assert on[3] != on[2]


def test_the_pairs_count_up_from_the_seed(town: Playground) -> None:
    assert images(last(town, "a mechanic", "1", 1, 1.0)) == images(last(town, "a mechanic", " 0 ", 2, 1.0))[2:]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("  ", "0", 1, 1.0), "the prompt is empty"),
        (("a mechanic", "-1", 1, 1.0), "the seed must be a whole number from 0"),
        (("a mechanic", "<b>", 1, 1.0), "got &#x27;&lt;b&gt;&#x27;"),
        (("a mechanic", "9" * 30, 1, 1.0), "a seed must be between 0 and"),
        (("a mechanic", "0", 1000, 1.0), "the number of pairs must be between 1 and 12"),
        (("a mechanic", "0", 1.5, 1.0), "the number of pairs must be between 1 and 12"),
        (("a mechanic", "0", 1, 2.0), "a weight must be between 0 and 1.5"),
        (("a mechanic", "0", 1, float("nan")), "a weight must be between 0 and 1.5"),
        (("mechanic " * 100, "0", 1, 1.0), "tokens"),
    ],
)
def test_what_cannot_be_asked_is_said_on_the_page(town: Playground, asked: tuple[Any, ...], message: str) -> None:
    (html,) = answers(town, settings(), *asked)
    assert 'role="alert"' in html
    assert message in html
    assert images(html) == []


def test_a_seed_beyond_a_browsers_numbers_is_taken_as_it_is(town: Playground) -> None:
    """2^53 + 1 would be 2^53 as a number of JavaScript."""
    one, other = (last(town, "a mechanic", str(2**53 + number), 1, 0.0) for number in (0, 1))
    assert f"seed {2**53 + 1}," in other
    assert images(one) != images(other)


@pytest.mark.parametrize(("key", "value"), [("num_images", 0), ("num_images", 13), ("max_weight", 0.0)])
def test_wrong_settings_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        settings(**{key: value})


def test_without_gradio_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=re.escape(INSTALL)):
        gradio()


@pytest.fixture(scope="module")
def address(town: Playground) -> Iterator[str]:
    """Where the page is served; the event loops that gradio leaves open are collected here, where nobody is warned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        page = make_page(town, settings())
        yield serve(page, settings(), wait=False)
        page.close(verbose=False)
        del page
        for _ in range(5):
            gc.collect()


@needs_gradio
@of_gradio
def test_the_served_page_answers_as_its_function_does(town: Playground, address: str) -> None:
    from gradio_client import Client

    client = Client(address, verbose=False)
    *_, html = client.submit("a mechanic", "0", 2, 1.0, api_name="/pairs")
    assert images(html) == images(last(town, "a mechanic", "0", 2, 1.0))


@needs_gradio
@of_gradio
def test_the_served_page_names_no_other_fonts_and_sends_nothing_home(address: str) -> None:
    import httpx

    page = httpx.get(address).text
    assert "evenhand playground" in page
    assert not re.search(r"fonts\.(googleapis|gstatic)|cdnjs", page)
    assert '"analytics_enabled":false' in page.replace(" ", "")
