"""A comparison of two adapters, or of one with a baseline, as Markdown."""

from __future__ import annotations

from evenhand.analysis.comparison import Comparison
from evenhand.evaluation.question import ADAPTED_ARM
from evenhand.report.figures import FINE, interval, signed


def comparison_md(comparison: Comparison) -> str:
    """The answer, both runs, every difference with its interval, and the notes."""
    lines = ["# Two adapters compared", "", comparison.answer, ""]
    for name, run in (("a", comparison.run_a), ("b", comparison.run_b)):
        guards = "not known" if run.failed_guards is None else ", ".join(run.failed_guards) or "none"
        kind = "adapter" if run.arm == ADAPTED_ARM else run.arm
        adapter = "" if run.adapter_sha256 is None else f", {kind} `{run.adapter_sha256[:12]}`"
        lines.append(f"- Run {name}: `{run.folder}`{adapter}; failed guards: {guards}")
    lines += ["", "| suite | attribute | estimate | shift a | shift b | b minus a | interval | prompts | pairs | |"]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for entry in comparison.differences:
        verdict = entry.verdict if entry.better is None else f"{entry.verdict}; run {entry.better[-1]} is better"
        ends = "" if entry.low is None else interval(entry.low, entry.high, change=True, digits=FINE)
        values = (*(signed(value, FINE) for value in (entry.shift_a, entry.shift_b, entry.value)), ends)
        cells = (entry.suite, entry.attribute, entry.name, *values, str(entry.n_prompts), str(entry.n_pairs), verdict)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in comparison.notes), ""])
