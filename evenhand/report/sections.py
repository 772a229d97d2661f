"""The tables of a report, each quantity in one of them: whole suites, concepts, missing readings, groups, joints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from evenhand.analysis.dose import dose_scales
from evenhand.evaluation.plan import JOINT, Plan
from evenhand.records import Estimate
from evenhand.report.content import Content
from evenhand.report.figures import NOTHING, QUANTITIES, cell, p_value, quantity_text, title

MISSING = ("unread", "bounds")
GROUPS = ("presence", "subject_share", "homogeneity", "within_mix", "between_mix", "subjects")
ScopeKey = tuple[str, str]  # suite, attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One quantity: a cell for each arm and the shift, its floor, counts, and how it was estimated."""

    what: str
    cells: tuple[str, ...]
    floor: str
    counts: str
    how: str
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The rows of one attribute in one suite."""

    suite: str
    attribute: str
    rows: tuple[Row, ...]

    @property
    def has_floor(self) -> bool:
        """Whether any row has a floor."""
        return any(row.floor for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Blocks of rows; ``num_left_out`` rows stand in ``results.json`` only."""

    blocks: tuple[Block, ...]
    num_left_out: int

    @property
    def num_rows(self) -> int:
        """The rows that are shown."""
        return sum(len(block.rows) for block in self.blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class JointCell:
    """A combination of values: its shares, and the adapted one as a tint between 0 and 100."""

    value: str
    cells: tuple[str, ...]
    tint: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JointPanel:
    """The declared combinations of two attributes as a grid, or of more as one row."""

    suite: str
    attribute: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[JointCell, ...]], ...]


def family(estimate: Estimate) -> str:
    """The kind of quantity: of ``share:woman`` it is ``share``."""
    return estimate.name.partition(":")[0]


def metric_table(content: Content, plan: Plan, *, most: int) -> Table:
    """Every quantity of whole suites that no other table shows."""
    joints = set(plan.joint_attributes)
    chosen = [
        estimate
        for estimate in content.estimates
        if estimate.concept is None
        and family(estimate) not in (*MISSING, *GROUPS)
        and not (estimate.attribute in joints and family(estimate) == "share")
    ]
    return _table(content, plan, chosen, most=most)


def concept_table(content: Content, plan: Plan, *, most: int) -> Table:
    """Every quantity of single concepts, with the test that Holm's correction went over."""
    return _table(
        content, plan, [estimate for estimate in content.estimates if estimate.concept is not None], most=most
    )


def missing_table(content: Content, plan: Plan, *, most: int) -> Table:
    """Images without a reading, and the bounds of shares whatever those images show."""
    chosen = [each for each in content.estimates if each.concept is None and family(each) in MISSING]
    return _table(content, plan, chosen, most=most)


def group_table(content: Content, plan: Plan, *, most: int) -> Table:
    """Images of several people: who is in them, and whether within one image or between images."""
    chosen = [each for each in content.estimates if each.concept is None and family(each) in GROUPS]
    return _table(content, plan, chosen, most=most)


def _table(content: Content, plan: Plan, estimates: Iterable[Estimate], *, most: int) -> Table:
    groups: dict[ScopeKey, dict[tuple[str, str | None], dict[str, Estimate]]] = {}
    scales = dose_scales(plan)
    for estimate in estimates:
        if estimate.arm not in scales:
            rows = groups.setdefault((estimate.suite, estimate.attribute), {})
            rows.setdefault((estimate.name, estimate.concept), {})[estimate.arm] = estimate
    tests = {(test.suite, test.attribute, test.concept): test for test in content.prompt_tests}
    blocks, room, left_out = [], most, 0
    for suite, attribute in sorted(groups, key=lambda key: _order(content, key)):
        found = []
        for (name, concept), by_arm in groups[suite, attribute].items():
            if _says_nothing(by_arm) and suite != content.suite:
                continue
            test = None if concept is None else tests.get((suite, attribute, concept))
            mark = "" if test is None else f"{p_value(test.p_holm)}{' ✱' if test.changed else ''}"
            found.append(_row(content, name, concept, by_arm, mark))
        blocks.append(Block(suite=suite, attribute=attribute, rows=tuple(found[:room])))
        left_out += len(found) - len(found[:room])
        room -= len(found[:room])
    return Table(blocks=tuple(block for block in blocks if block.rows), num_left_out=left_out)


def _order(content: Content, key: ScopeKey) -> tuple[bool, bool]:
    """The headline's own block first, then its suite, then the rest as they come."""
    suite, attribute = key
    return (suite != content.suite, attribute != content.attribute)


def _says_nothing(by_arm: Mapping[str, Estimate]) -> bool:
    return all(estimate.value is None and estimate.low is None for estimate in by_arm.values())


def _row(content: Content, name: str, concept: str | None, by_arm: Mapping[str, Estimate], mark: str) -> Row:
    last = list(by_arm.values())[-1]
    # The third column has the change, or what both arms give together.
    between = [estimate for arm, estimate in by_arm.items() if arm not in content.arms]
    floors = [by_arm[arm].floor for arm in content.arms if arm in by_arm]
    shown = [quantity_text(name, floor) for floor in dict.fromkeys(floors) if floor is not None]
    return Row(
        what=title(name) if concept is None else f"{concept}: {title(name)}",
        cells=(*(cell(by_arm.get(arm)) for arm in content.arms), cell(between[0] if between else None)),
        floor=" / ".join(dict.fromkeys(shown)),
        counts=f"{last.n_prompts} / {last.n_images} / {last.n_unread}",
        how=last.how,
        mark=mark,
    )


def joint_panels(content: Content, plan: Plan) -> Iterator[JointPanel]:
    """The shares of every declared combination, the headline suite first."""
    suites = [content.suite, *(suite for suite in plan.suites if suite != content.suite)]
    for attribute, cells in plan.joint_attributes.items():
        for suite in suites:
            found = {
                value: [
                    content.find(f"share:{value}", suite=suite, attribute=attribute, arm=arm) for arm in content.arms
                ]
                for value in cells
            }
            if any(each is not None and each.value is not None for row in found.values() for each in row):
                yield _joint_panel(plan, suite, attribute, found)


def _joint_panel(plan: Plan, suite: str, attribute: str, found: Mapping[str, Sequence[Estimate | None]]) -> JointPanel:
    parts = attribute.split(JOINT)
    largest = max((each.value or 0.0 for row in found.values() for each in row if each is not None), default=0.0)
    made = {value: _joint_cell(value, row, largest) for value, row in found.items()}
    if len(parts) != 2:
        rows = tuple((value, (joint_cell,)) for value, joint_cell in made.items())
        return JointPanel(suite=suite, attribute=attribute, columns=("share",), rows=rows)
    firsts, seconds = (plan.attributes[part] for part in parts)
    grid = tuple((one, tuple(made[f"{one}{JOINT}{other}"] for other in seconds)) for one in firsts)
    return JointPanel(suite=suite, attribute=attribute, columns=tuple(seconds), rows=grid)


def _joint_cell(value: str, row: Sequence[Estimate | None], largest: float) -> JointCell:
    adapted = row[-1]
    share = 0.0 if adapted is None or adapted.value is None else adapted.value
    texts = tuple(NOTHING if each is None else cell(each) for each in row)
    return JointCell(value=value, cells=texts, tint=round(100 * share / largest, 1) if largest > 0 else 0.0)


def glossary(content: Content) -> list[tuple[str, str]]:
    """Every quantity that this report shows, with its meaning, in the order of :data:`QUANTITIES`."""
    shown = {family(estimate) for estimate in content.estimates}
    return [(known.title, known.meaning) for name, known in QUANTITIES.items() if name in shown]
