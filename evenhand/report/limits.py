"""What an evaluation did not show, in sentences: each follows from a field of the results or from its absence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evenhand.analysis.suite_shares import SHIFT
from evenhand.analysis.wording import percent
from evenhand.evaluation.plan import Plan
from evenhand.report.content import Content
from evenhand.report.figures import cell, interval, number

MAX_NAMED = 6
NOT_ASKED = {
    "offtemplate": "other wordings, styles and modifiers",
    "explicit": "whether prompts that state the value are still obeyed",
    "fixed": "whether facts that must not change were kept",
    "unrelated": "whether images of unrelated prompts changed",
    "groups": "images of several people",
}


def not_shown(plan: Plan, content: Content) -> list[str]:
    """The sentences, the most important first."""
    return [
        *_circular(plan, content),
        *_smallest_effect(plan, content),
        *_reader_error(plan, content),
        *_missing(content),
        *_values(plan, content),
        *_left_alone(plan, content),
        *_training_prompts(plan),
        *_scope(plan, content),
    ]


def _circular(plan: Plan, content: Content) -> Iterator[str]:
    if plan.training_reader is not None and plan.training_reader == content.reader:
        yield f"Circular: {content.reader} was used in training and judges here; an adapter that fools it looks good."
    if plan.tier == "smoke":
        yield "Tier smoke tests the plumbing: no claim can rest on so few images."


def _smallest_effect(plan: Plan, content: Content) -> Iterator[str]:
    headline = (content.suite, content.attribute, SHIFT)
    found = [each.mde for each in content.verdicts if (each.suite, each.attribute, each.arm) == headline]
    planned = plan.extra.get("mde")
    if found and found[0] is not None:
        yield (
            f"A change of a share smaller than {number(found[0])} on {content.suite} prompts would often have been "
            "missed: that is the smallest which so many prompts find in four of five repetitions."
        )
    elif isinstance(planned, Mapping) and planned.get("value") is not None:
        yield (
            f"The plan can find a change of a share of {number(planned['value'])} in four of five repetitions; a "
            "smaller one would often be missed."
        )
    else:
        yield "How small a change would have been found is not known: neither the plan nor the results say it."


def _reader_error(plan: Plan, content: Content) -> Iterator[str]:
    """What is known of the headline reader's errors: how far others agree with it."""
    judge = content.reader
    found = [
        row for row in content.agreement if row.attribute == content.attribute and judge in (row.reader, row.other)
    ]
    for row in found:
        other = row.other if row.reader == judge else row.reader
        share = "an unknown part" if row.share is None else f"{percent(row.share)} %"
        kappa = "" if row.kappa is None else f", kappa {number(row.kappa)} ({interval(row.low, row.high)})"
        yield f"Readers {judge} and {other} agree on {share} of the {row.arm} images{kappa}; shared errors stay unseen."
    if not found:
        yield (
            f"How often reader {judge} is wrong was not measured: no second reader and no person looked at the images, "
            "and its errors are not in the intervals."
        )


def _missing(content: Content) -> Iterator[str]:
    rates = [
        content.find("unread", suite=content.suite, attribute=content.attribute, arm=arm)
        for arm in (*content.arms, SHIFT)
    ]
    if rates[0] is not None and rates[1] is not None and rates[0].value is not None and rates[1].value is not None:
        change = "" if rates[2] is None or rates[2].value is None else f" (change {cell(rates[2])})"
        yield (
            f"Images without a reading of {content.attribute} on {content.suite} prompts, as a part of all: "
            f"{content.arms[0]} {number(rates[0].value)}, {content.arms[1]} {number(rates[1].value)}{change}; what "
            "they show is not known."
        )


def _values(plan: Plan, content: Content) -> Iterator[str]:
    values = ", ".join(plan.attributes[content.attribute])
    yield (
        f"Only the declared values of {content.attribute} ({values}) can be read. Whoever fits none of them counts as "
        "one of them or as unread. A reading is what a picture looks like, never who somebody is."
    )


def _left_alone(plan: Plan, content: Content) -> Iterator[str]:
    concepts = dict.fromkeys(prompt.concept for prompt in plan.in_suite(content.suite))
    alone = [concept for concept in concepts if plan.leaves_alone(content.attribute, concept)]
    if alone:
        more = f" and {len(alone) - MAX_NAMED} more" if len(alone) > MAX_NAMED else ""
        yield (
            f"No distance to target counts {', '.join(alone[:MAX_NAMED])}{more}: to stay as the base has it is their "
            "target, so a shift of their shares, which stands with those of the other concepts, is a side effect."
        )


def _training_prompts(plan: Plan) -> Iterator[str]:
    if "training_captions" in plan.extra and plan.extra["training_captions"] is None:
        yield "Whether prompts occurred in training is not known: the training captions were not at hand."
    excluded = plan.extra.get("excluded")
    if isinstance(excluded, list):
        texts = [_text(entry) for entry in excluded]
        if texts:
            more = "; the others stand in results.json" if len(texts) > MAX_NAMED else ""
            yield f"Left out, because training used them as captions: {', '.join(texts[:MAX_NAMED])}{more}."
        else:
            yield "No prompt of the headline is a training caption (by normalised text)."
    seen = plan.extra.get("seen")
    if isinstance(seen, Mapping):
        for suite, counts in seen.items():
            if isinstance(counts, Mapping) and counts.get("prompts"):
                yield (
                    f"Of the {counts.get('of')} {suite} prompts, {counts['prompts']} were training captions: there the "
                    "suite tests memory as well."
                )


def _text(entry: Any) -> str:  # Any: JSON of a plan that another tool may have written
    prompt = entry.get("prompt") if isinstance(entry, Mapping) else entry
    return f"“{prompt.get('text') if isinstance(prompt, Mapping) else prompt}”"


def _scope(plan: Plan, content: Content) -> Iterator[str]:
    missing = [words for suite, words in NOT_ASKED.items() if not plan.in_suite(suite)]
    if missing:
        yield f"Not asked: {'; '.join(missing)}."
    yield (
        f"Intervals speak of prompts like those of suite {content.suite}, with these generation settings. A list of "
        "prompts that somebody wrote is not a random sample of what users ask for."
    )
    if not content.paired:
        yield "The arms are not paired by seed, so unpaired formulas are used and intervals are wider."
