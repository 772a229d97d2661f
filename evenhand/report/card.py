"""A snippet for the adapter's model card: the headline and the guards as a Hugging Face ``model-index``.

The value of a metric is a text with its interval, since a number alone would be read without it. Format:
https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from evenhand.analysis.suite_shares import BOTH, SHIFT
from evenhand.analysis.wording import percent
from evenhand.evaluation.plan import Plan
from evenhand.records import Estimate, Guard
from evenhand.report.content import Content
from evenhand.report.figures import FINE, MINUS, cell, interval, is_change, number, quantity_text, signed, title

CARD_FILE = "card_snippet.yaml"
NOT_FOR = "Readings are what pictures look like; not for judging real people."
HEAD = f"""\
# For the YAML header of the adapter's README.md, between the two lines of ---.
# {NOT_FOR}
"""
METRICS = ("gap", "rms", "distance_sq", "gap_reduction", "shown", "similarity")
# Of the other suites a card says only what changed.
OTHER_METRICS = ("gap", "shown", "similarity")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
Block = dict[str, Any]  # Any: YAML


def card_snippet(plan: Plan, content: Content) -> str:
    """The snippet as YAML text."""
    generation = plan.generation
    snippet: Block = {}
    if generation is not None and HUB_ID.fullmatch(generation.base):
        snippet = {"base_model": generation.base, "base_model_relation": "adapter"}
    snippet["tags"] = ["evenhand", "lora", "text-to-image", "debiasing"]
    # A baseline has no weights: its name says what it is.
    is_adapter = generation is not None and "instructions" not in generation.arm
    name = f"adapter {generation.adapter_sha256[:12]}" if generation and is_adapter else content.arms[1]
    suites = dict.fromkeys((content.suite, *plan.suites, *(guard.suite for guard in content.guards)))
    found = [(suite, [*_metrics(content, suite), *_guards(content, suite)]) for suite in suites]
    snippet["model-index"] = [
        {"name": name, "results": [_result(plan, content, suite, metrics) for suite, metrics in found if metrics]}
    ]
    return HEAD + yaml.safe_dump(snippet, sort_keys=False, allow_unicode=True, width=100)


def _result(plan: Plan, content: Content, suite: str, metrics: list[Block]) -> Block:
    declared = plan.extra.get("suite")
    suite_id, version = (declared.get("name"), declared.get("version")) if isinstance(declared, dict) else (None, None)
    settings: Block = {"plan_sha256": content.plan_sha256, "reader": content.reader, "paired": content.paired}
    if plan.generation is not None:
        settings |= {
            "base": plan.generation.base,
            "base_fingerprint": plan.generation.base_fingerprint,
            "adapter_scale": plan.generation.adapter_scale,
            "adapter_sha256": plan.generation.adapter_sha256,
        }
        # a stack's adapters and weights, or a baseline's settings
        arm = {key: value for key, value in plan.generation.arm.items() if key != "instructions"}
        settings |= {"arm": arm} if arm else {}
    return {
        "task": {"type": "text-to-image", "name": f"Text to image. {NOT_FOR}"},
        "dataset": {
            "name": f"evenhand suite {suite_id or 'without a name'}, {suite} prompts",
            "type": str(suite_id or "evenhand-suite"),
            "config": suite,
            "revision": str(version if version is not None else content.plan_sha256),
            "args": settings,
        },
        "metrics": metrics,
    }


def _metrics(content: Content, suite: str) -> Iterator[Block]:
    headline = suite == content.suite
    names, arms = (METRICS, (*content.arms, SHIFT, BOTH)) if headline else (OTHER_METRICS, (SHIFT,))
    for estimate in content.estimates:
        named = estimate.attribute == content.attribute or estimate.name in ("shown", "similarity")
        whole = estimate.suite == suite and estimate.concept is None and estimate.arm in arms
        if whole and named and estimate.name in names and estimate.value is not None:
            yield _metric(content, estimate)
    for verdict in content.verdicts:
        if (verdict.suite, verdict.attribute) == (suite, content.attribute):
            yield {
                "type": "verdict",
                "value": verdict.verdict,
                "name": f"verdict on {verdict.attribute}, {verdict.arm}",
                "args": {"sentence": verdict.sentence},
            }


def _metric(content: Content, estimate: Estimate) -> Block:
    arm = "change" if is_change(estimate) else estimate.arm
    of = f"in perceived {estimate.attribute}" if estimate.attribute == content.attribute else f"({estimate.attribute})"
    args: Block = {
        "level": estimate.level,
        "n_prompts": estimate.n_prompts,
        "n_images": estimate.n_images,
        "n_unread": estimate.n_unread,
        "how": estimate.how,
    }
    if estimate.floor is not None:
        args["floor"] = quantity_text(estimate.name, estimate.floor)
    return {
        "type": f"{estimate.name}_{arm}",
        "value": plain(f"{cell(estimate)}, {percent(estimate.level)} % interval"),
        "name": f"{title(estimate.name)} {of}, {arm}",
        "args": args,
    }


def _guards(content: Content, suite: str) -> Iterator[Block]:
    for guard in content.guards:
        if guard.suite == suite:
            yield {"type": f"guard_{guard.name}", "value": plain(_guard(guard)), "name": f"guard: {guard.name}"}


def _guard(guard: Guard) -> str:
    state = "held" if guard.passed else "FAILED"
    ends = interval(guard.low, guard.high, change=True, digits=FINE)
    return f"{signed(guard.value, FINE)} ({ends}), margin {number(guard.margin, FINE)}: {state}"


def plain(text: str) -> str:
    """A text with the hyphen that other programs take for a minus."""
    return text.replace(MINUS, "-")
