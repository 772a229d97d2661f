"""Every check fails when what it checks is broken in the obvious way; each row breaks one thing and runs one check."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evenhand.adapters import lora
from evenhand.analysis.results import Results
from evenhand.files import sha256_json
from evenhand.honesty import checks, sights, small_run, traps
from evenhand.honesty.outcome import FAIL, PASS, SKIPPED
from evenhand.interfaces import LoadedReader
from evenhand.records import SubjectReading
from evenhand.stats.audits import DifferentialError
from evenhand.stats.equivalence import Equivalence
from evenhand.stats.intervals import Interval
from tests.honesty.few import broken, estimates, few, guards_hold, moved, narrow, verdict

Patch = tuple[str, Any]
ANALYSIS = "evenhand.honesty.folders.analyse"
FOLDER_ANALYSIS = "evenhand.honesty.painted.analyse_folder"
ERRORS = "evenhand.honesty.reader_errors"


def holm_forgotten(results: Results) -> Results:
    return replace(results, prompt_tests=tuple(replace(test, changed=test.p <= 0.05) for test in results.prompt_tests))


def small_p(results: Results) -> Results:
    return replace(results, permutation=tuple(replace(t, p=(t.p or 0.0) / 20) for t in results.permutation))


def mde_a_third(results: Results) -> Results:
    return replace(
        results, verdicts=tuple(replace(v, mde=v.mde / 3 if v.mde is not None else None) for v in results.verdicts)
    )


def gap_is_pooled(results: Results) -> Results:
    pooled = {(e.suite, e.arm): e.value for e in results.estimates if e.name == "gap_pooled"}
    return replace(
        results,
        estimates=tuple(
            replace(e, value=pooled[e.suite, e.arm]) if e.name == "gap" and e.concept is None else e
            for e in results.estimates
        ),
    )


def bounds_of_what_was_read(results: Results) -> Results:
    shares = {(e.name, e.arm): e.value for e in results.estimates if e.name.startswith("share:") and e.concept is None}

    def known(name: str, arm: str) -> float | None:
        return shares["share:" + name.removeprefix("bounds:"), arm]

    return replace(
        results,
        estimates=tuple(
            replace(e, low=known(e.name, e.arm), high=known(e.name, e.arm)) if e.name.startswith("bounds:") else e
            for e in results.estimates
        ),
    )


def says_nothing(results: Results) -> Results:
    return replace(results, answer=results.answer.replace("ircular", ""))


def analysed_folder(change: Callable[[Results], Results]) -> Callable[[Path], Results]:
    from evenhand.analysis.results import analyse_folder

    return lambda folder: change(analyse_folder(folder))


def raw_score_as_within(results: Results) -> Results:
    raw = next(e for e in results.estimates if e.name == "image_text" and e.arm == "shift")
    return replace(
        results,
        estimates=tuple(
            replace(e, value=raw.value, low=raw.low, high=raw.high) if e.name == "image_text_within" else e
            for e in results.estimates
        ),
    )


def stops_early(self: Any) -> str | None:
    return "changed" if self.e_value >= 2 else None


def always_within(*args: Any, **more: Any) -> Equivalence:
    return Equivalence(0.0, 0.0, 0.0, 0.0, "within", "broken")


def narrow_correction(*args: Any, **more: Any) -> tuple[Interval, ...]:
    from evenhand.stats.measurement import corrected_shift

    first, *others = corrected_shift(*args, **more)
    assert first.value is not None
    return Interval(first.value, first.value - 0.01, first.value + 0.01, "broken"), *others


def reader_alone(human_L: Any, reader_L: Any, reader_N: Any, **more: Any) -> Interval:
    half = 1.96 * float(reader_N.std()) / len(reader_N) ** 0.5
    return Interval(float(reader_N.mean()), float(reader_N.mean()) - half, float(reader_N.mean()) + half, "broken")


def never_suspicious(*args: Any) -> DifferentialError:
    return DifferentialError(1.0, False, {}, "broken")


def always_suspicious(*args: Any) -> DifferentialError:
    return DifferentialError(0.0, True, {}, "broken")


def reads_anything(*, farthest: float = 0.0) -> Any:
    return small_run.small_reader()


def without_bound(name: str) -> LoadedReader:
    reader: Any = sights.reader_of(name)
    reader.min_energy = None
    loaded: LoadedReader = reader.load(device=sights.cpu())
    return loaded


class Brightness:
    """Reads whoever is bright as one value: it sees light, not people."""

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        values = sights.reader_of(sights.READER).attributes[sights.PERSON[0]]
        return [
            [
                SubjectReading(
                    subject=0,
                    attribute=sights.PERSON[0],
                    value=values[int(np.asarray(image).mean() > 165)],
                    probs=None,
                    unread=None,
                )
            ]
            for image in images
        ]


def perturbed(*args: Any, **more: Any) -> Any:
    finished = small_run.evaluate(*args, **more)
    weight = next(args[1].unet.parameters())
    weight.data += 1e-7
    return finished


def phones_home() -> Any:
    with contextlib.suppress(OSError):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1).close()
    return small_run.small_base()


def lenient_load(base: Any, path: Path, **more: Any) -> Any:
    with contextlib.suppress(ValueError):
        return LOAD(base, path, **more)


LOAD = lora.load


def key_of_prompts(plan: Any, images: Sequence[Any]) -> str:
    return sha256_json([[prompt.text, seed] for prompt, seed in images])


def unscaled(*args: Any) -> Any:
    return contextlib.nullcontext()


BROKEN: list[tuple[str, str, Patch]] = [
    ("aa", "intervals too narrow", (ANALYSIS, broken(estimates(["share:"], narrow)))),
    ("aa", "p values too small", (ANALYSIS, broken(small_p))),
    ("inject", "intervals too narrow", (ANALYSIS, broken(estimates(["share:"], narrow)))),
    ("floor", "distance biased upward", (ANALYSIS, broken(estimates(["distance_sq"], moved(0.03))))),
    ("floor", "a fair generator called biased", (ANALYSIS, broken(verdict("biased", arms=("base",))))),
    ("floor", "nothing is called biased", (ANALYSIS, broken(verdict("not settled", arms=("base", "adapted"))))),
    ("pooling", "pooled gap as headline", (ANALYSIS, broken(gap_is_pooled))),
    ("golden", "gap off by a hundredth", (ANALYSIS, broken(estimates(["gap"], moved(0.01))))),
    ("direction", "progress invented", (ANALYSIS, broken(estimates(["toward"], moved(0.05))))),
    ("groups", "faces as units", (ANALYSIS, broken(estimates(["subject_share"], narrow)))),
    ("segregated", "segregated groups on target", (ANALYSIS, broken(verdict("on target")))),
    ("multiplicity", "no correction", (ANALYSIS, broken(holm_forgotten))),
    ("optional-stopping", "stops at e = 2", ("evenhand.honesty.traps.Betting.stop", stops_early)),
    ("tost", "always no harm", ("evenhand.honesty.traps.tost_paired_shares", always_within)),
    ("tost", "guards always hold", (ANALYSIS, broken(guards_hold))),
    ("mde", "a third of the true one", (ANALYSIS, broken(mde_a_third))),
    (
        "label-noise",
        "error of validation ignored",
        ("evenhand.honesty.reader_errors.corrected_shift", narrow_correction),
    ),
    ("differential", "labels ignored", (f"{ERRORS}.prediction_powered", reader_alone)),
    ("differential", "nothing is noticed", (f"{ERRORS}.differential_error", never_suspicious)),
    ("differential", "any difference is one", (f"{ERRORS}.differential_error", always_suspicious)),
    ("differential", "one reader is enough", (ANALYSIS, broken(verdict("improved")))),
    ("missing", "unread images dropped", (ANALYSIS, broken(bounds_of_what_was_read))),
    ("weak-reader", "no reader too weak", (f"{ERRORS}.too_weak", lambda confusion: None)),
    ("disagree", "second reader ignored", (ANALYSIS, broken(verdict("improved")))),
    ("canaries", "reads noise", ("evenhand.honesty.sights.small_reader", reads_anything)),
    ("canaries", "the embedded reader reads noise", ("evenhand.honesty.sights.loaded", without_bound)),
    ("metamorphic", "brighter things are the same", ("evenhand.honesty.sights.pixel_similarity", lambda *pair: 1.0)),
    ("metamorphic", "reads light", ("evenhand.honesty.sights.loaded", lambda name: Brightness())),
    ("antisymmetry", "shifts lean", (ANALYSIS, broken(estimates(["gap"], moved(0.01), arms=("shift",))))),
    ("duplicate", "copies counted", ("evenhand.analysis.results.refuse_copied_images", lambda folder: None)),
    ("collapse", "guards always hold", (FOLDER_ANALYSIS, analysed_folder(guards_hold))),
    ("composition-only", "mixture taken for quality", (FOLDER_ANALYSIS, analysed_folder(raw_score_as_within))),
    ("copycat", "guards always hold", (FOLDER_ANALYSIS, analysed_folder(guards_hold))),
    ("disobedient", "guards always hold", (ANALYSIS, broken(guards_hold))),
    ("leak", "texts compared letter by letter", ("evenhand.evaluation.overlap.text_key", str)),
    ("circular", "not said", (ANALYSIS, broken(says_nothing))),
    ("overshoot", "called improved", (ANALYSIS, broken(verdict("improved")))),
    ("plan-freeze", "old results rendered", ("evenhand.report.render.refuse_another_plan", lambda folder: None)),
    ("recompute", "a millionth off", ("evenhand.analysis.results.analyse", broken(estimates(["gap"], moved(1e-6))))),
    ("null-adapter", "scale ignored", ("evenhand.adapters.lora.scaled", unscaled)),
    ("no-fuse", "weights drift", ("evenhand.honesty.plumbing.evaluate", perturbed)),
    ("same-batches", "any plan fits a folder", ("evenhand.honesty.plumbing.freeze_plan", lambda plan, folder: "")),
    ("resume", "nothing was killed", ("evenhand.honesty.plumbing._killed_at", lambda *args: False)),
    ("cache-key", "key of prompts and seeds only", ("evenhand.honesty.plumbing.batch_key", key_of_prompts)),
    ("offline", "phones home", ("evenhand.honesty.plumbing.small_base", phones_home)),
    ("loads-or-fails", "what fits is loaded", ("evenhand.honesty.plumbing.lora.load", lenient_load)),
]


# With images of the embedded base, or with many long evaluations: ten seconds and more on a slow machine.
SLOW = {"null-adapter", "no-fuse", "same-batches", "resume", "cache-key", "offline", "canaries", "metamorphic"}
SLOW |= {"aa", "inject", "floor", "mde", "missing"}
ROWS = [
    pytest.param(*row, id=f"{row[0]}: {row[1]}", marks=[pytest.mark.slow] if row[0] in SLOW else []) for row in BROKEN
]


@pytest.mark.parametrize(("name", "what", "patch"), ROWS)
@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters:RuntimeWarning")
def test_a_check_fails_when_what_it_checks_is_broken(
    name: str, what: str, patch: Patch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(*patch)
    (checked,) = checks.run_checks([name], few(name, tmp_path))
    assert checked.outcome.status == FAIL, "\n".join(checks.lines(checked))
    assert "the check itself broke" not in {figure.label for figure in checked.outcome.figures}, checked.outcome


def test_every_check_is_broken_once() -> None:
    """All but the one of a reader that need not be installed."""
    assert {name for name, _, _ in BROKEN} == set(checks.CHECKS) - {"real-reader"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in checks.CHECKS]
)
@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters:RuntimeWarning")
def test_a_check_passes_on_what_there_is(name: str, tmp_path: Path) -> None:
    """The control: with the same draws, nothing broken."""
    (checked,) = checks.run_checks([name], few(name, tmp_path))
    assert checked.outcome.status in (PASS, SKIPPED), "\n".join(checks.lines(checked))


def test_a_reader_that_is_not_installed_is_skipped_and_never_passed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = sights.check_real_reader(few("real-reader", tmp_path))
    assert outcome.status == SKIPPED
    assert outcome.skipped is not None
    assert "evenhand[faces]" in outcome.skipped


def test_the_stopping_rule_is_the_real_one() -> None:
    """The control of the row above: unbroken, e = 2 is no reason to stop."""
    betting = traps.Betting(alpha=0.05)
    betting.update(np.full(10, 0.3))
    assert betting.stop() is None
