"""The checks by name, in the order in which they are run, and how a whole self-test is told and kept."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import evenhand
from evenhand.cache import open_cache
from evenhand.construct import closest
from evenhand.files import sha256_file, sha256_json, write_json_atomic
from evenhand.honesty import calibration, claims, plumbing, quality, reader_errors, recompute, sights, traps, verdicts
from evenhand.honesty.bench import Bench
from evenhand.honesty.outcome import FAIL, PASS, SKIPPED, Figure, Outcome
from evenhand.paths import PACKAGE_FOLDER

SELFTEST_FILE = "selftest.json"
NOTE_CHARACTERS = 60

Check = Callable[[Bench], Outcome]

CHECKS: Mapping[str, Check] = {
    "null-adapter": plumbing.check_null_adapter,
    "no-fuse": plumbing.check_no_fuse,
    "same-batches": plumbing.check_same_batches,
    "resume": plumbing.check_resume,
    "cache-key": plumbing.check_cache_key,
    "offline": plumbing.check_offline,
    "recompute": recompute.check_recompute,
    "loads-or-fails": plumbing.check_loads_or_fails,
    "aa": calibration.check_aa,
    "inject": calibration.check_inject,
    "floor": calibration.check_floor,
    "pooling": traps.check_pooling,
    "golden": traps.check_golden,
    "direction": claims.check_direction,
    "groups": traps.check_groups,
    "segregated": traps.check_segregated,
    "multiplicity": claims.check_multiplicity,
    "optional-stopping": traps.check_optional_stopping,
    "tost": traps.check_tost,
    "mde": claims.check_mde,
    "label-noise": reader_errors.check_label_noise,
    "differential": reader_errors.check_differential,
    "missing": reader_errors.check_missing,
    "weak-reader": reader_errors.check_weak_reader,
    "canaries": sights.check_canaries,
    "metamorphic": sights.check_metamorphic,
    "disagree": reader_errors.check_disagree,
    "antisymmetry": verdicts.check_antisymmetry,
    "duplicate": quality.check_duplicate,
    "collapse": quality.check_collapse,
    "disobedient": verdicts.check_disobedient,
    "composition-only": quality.check_composition_only,
    "copycat": quality.check_copycat,
    "leak": verdicts.check_leak,
    "circular": verdicts.check_circular,
    "overshoot": verdicts.check_overshoot,
    "plan-freeze": verdicts.check_plan_freeze,
    "real-reader": sights.check_real_reader,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A check that was run."""

    name: str
    outcome: Outcome
    seconds: float


def chosen(names: Sequence[str]) -> list[str]:
    """The names of the checks to run, all when none is given; ValueError offers the names there are."""
    for name in names:
        if name not in CHECKS:
            raise ValueError(f"unknown check {name!r}{closest(name, list(CHECKS))}; there are {', '.join(CHECKS)}")
    return [name for name in CHECKS if not names or name in names]


def run_checks(names: Sequence[str], bench: Bench) -> Iterator[Checked]:
    """Each check as it ends. An error in one is that check's failure, and the others are run all the same."""
    for name in names:
        started = time.monotonic()
        outcome = _guarded(CHECKS[name], bench)
        yield Checked(name=name, outcome=outcome, seconds=time.monotonic() - started)


def _guarded(check: Check, bench: Bench) -> Outcome:
    try:
        return check(bench)
    except Exception as error:  # whatever breaks a check is what the check is there to tell
        note = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return Outcome(figures=(Figure(label="the check itself broke", value=1.0, high=0.0, note=note),))


def lines(checked: Checked) -> Iterator[str]:
    """A check as lines of a plain table: its name, status and time, then each figure with its band."""
    outcome = checked.outcome
    yield f"{checked.name:<20} {outcome.status:<8} {checked.seconds:6.1f} s" + (
        f"  {outcome.skipped}" if outcome.skipped else ""
    )
    for figure in outcome.figures:
        mark = " " if figure.passed else "!"
        note = f"  {figure.note[:NOTE_CHARACTERS]}" if figure.note else ""
        yield f"  {mark} {figure.label:<48} {shown(figure.value):>9}  {band_text(figure):<19}{note}".rstrip()


def shown(value: float) -> str:
    """A figure's number: whole ones as they are, others with four digits."""
    return f"{value:.0f}" if math.isfinite(value) and float(value).is_integer() else f"{value:.4g}"


def band_text(figure: Figure) -> str:
    """The band in words."""
    low, high = figure.low, figure.high
    if low == high:
        return f"= {shown(low)}"
    if math.isinf(low) and math.isinf(high):
        return "no band"
    if math.isinf(low):
        return f"<= {shown(high)}"
    return f">= {shown(low)}" if math.isinf(high) else f"{shown(low)} to {shown(high)}"


def summary(checked: Sequence[Checked]) -> str:
    """The last line."""
    by_status = {
        status: [one.name for one in checked if one.outcome.status == status] for status in (PASS, FAIL, SKIPPED)
    }
    parts = [f"{len(by_status[PASS])} of {len(checked)} checks passed"]
    for status, word in ((FAIL, "failed"), (SKIPPED, "skipped")):
        if by_status[status]:
            parts.append(f"{word}: {', '.join(by_status[status])}")
    return f"{'; '.join(parts)} ({sum(one.seconds for one in checked):.0f} s)"


def write_selftest(checked: Sequence[Checked], bench: Bench) -> dict[str, Any]:  # Any: JSON
    """Keep the result of all checks in the cache folder, where reports find it; its content."""
    content = {
        "version": evenhand.__version__,
        "full": bench.full,
        "runs": bench.runs(),
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
        "passed": all(one.outcome.status != FAIL for one in checked),
        "failed": [one.name for one in checked if one.outcome.status == FAIL],
        "skipped": [
            {"name": one.name, "reason": one.outcome.skipped} for one in checked if one.outcome.skipped is not None
        ],
        "num_checks": len(checked),
        "seconds": round(sum(one.seconds for one in checked), 1),
        "sources_sha256": sources_sha256(),
    }
    write_json_atomic(open_cache() / SELFTEST_FILE, content)
    return content


def sources_sha256() -> str:
    """What tells this evenhand's code from another: the sha256 of its Python files."""
    files = sorted(PACKAGE_FOLDER.rglob("*.py"))
    return sha256_json([[file.relative_to(PACKAGE_FOLDER).as_posix(), sha256_file(file)] for file in files])
