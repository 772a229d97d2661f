"""The world of tinytown: draws who is pictured, renders it, and says how often, all from ``world.yaml``.

A picture is a function of its :class:`Scene`; a scene is one of a concept, of the values that are fixed, and of a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from evenhand.seeds import derive
from evenhand.tinytown import drawing, scenery

WORLD_PATH = Path(__file__).with_name("world.yaml")
PERSON_ATTRIBUTES = ("presentation", "skin", "glasses", "headwear")
NUM_PLACES = len(drawing.PLACES)
NO_OCCUPATION = "none"
SUBJECT_VALUES = ("someone", "nobody")
# Readers also see groups with empty places, so that they can say that somebody is missing.
EMPTY_PLACE_SHARE = 0.15
ROCK_FAN = "rock fan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a picture shows. ``labels`` of a group are keyed by place: ``0.presentation``, ``1.skin`` ..."""

    concept: str
    kind: str
    labels: Mapping[str, str]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    """A scene with a caption for it; ``named`` are the attributes that the caption states."""

    scene: Scene
    text: str
    named: tuple[str, ...]


class World:
    """The distributions of ``world.yaml``: of occupations, groups, scenes, objects, ``person`` and ``rock fan``."""

    def __init__(self, path: Path = WORLD_PATH) -> None:
        self.data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))  # Any: YAML
        self.attributes: dict[str, tuple[str, ...]] = {
            name: tuple(values) for name, values in self.data["attributes"].items()
        }
        self.occupations: tuple[str, ...] = tuple(self.data["occupations"])
        self.groups: tuple[str, ...] = tuple(self.data["groups"])
        self.markets: tuple[str, ...] = tuple(self.data["markets"])
        self.meatballs: tuple[str, ...] = tuple(self.data["meatballs"])
        self.objects: tuple[str, ...] = tuple(self.data["objects"])
        self.size_px: int = self.data["size_px"]

    @property
    def concepts(self) -> tuple[str, ...]:
        """Every concept of the world."""
        return (
            *self.occupations,
            "person",
            ROCK_FAN,
            *self.groups,
            *self.markets,
            *self.meatballs,
            *self.objects,
        )

    @property
    def heads(self) -> dict[str, tuple[str, ...]]:
        """What a reader of tinytown reads: head -> values. ``kind`` decides which of the others apply."""
        places = {f"{place}.{name}": self.attributes[name] for place in range(NUM_PLACES) for name in PERSON_ATTRIBUTES}
        places |= {f"{place}.subject": SUBJECT_VALUES for place in range(NUM_PLACES)}
        return {
            "kind": ("person", "group", "market", "meatballs", *self.objects),
            "occupation": (*self.occupations, ROCK_FAN, NO_OCCUPATION),
            **self.attributes,
            **places,
        }

    def kind(self, concept: str) -> str:
        """The kind of picture of a concept; ValueError offers the concepts."""
        if concept in self.occupations or concept in ("person", ROCK_FAN):
            return "person"
        for kind, names in (("group", self.groups), ("market", self.markets), ("meatballs", self.meatballs)):
            if concept in names:
                return kind
        if concept in self.objects:
            return concept
        raise ValueError(f"unknown concept {concept!r} in tinytown; choose one of {', '.join(self.concepts)}")

    def _people(self, concept: str) -> dict[str, Any]:  # Any: YAML
        if concept in self.occupations:
            own = self.data["occupations"][concept]
        elif concept in self.groups:
            own = self.data["groups"][concept]
        else:
            own = self.data["rock_fan"] if concept == ROCK_FAN else {}
        return {**self.data["people"], **own}

    def attributes_of(self, concept: str) -> tuple[str, ...]:
        """The attributes that a picture of the concept has (for a group: each of its people)."""
        kind = self.kind(concept)
        if kind in ("person", "group"):
            return (*PERSON_ATTRIBUTES, "print") if concept == ROCK_FAN else PERSON_ATTRIBUTES
        return {"market": ("season",), "meatballs": ("sauce",)}.get(kind, ())

    def drawn_with(self, concept: str) -> dict[str, tuple[str, ...]]:
        """What :meth:`draw` can fix of a concept, with its values; of a group also person by person: ``0.skin``."""
        names = self.attributes_of(concept)
        places = (
            [f"{place}.{name}" for place in range(NUM_PLACES) for name in names]
            if self.kind(concept) == "group"
            else []
        )
        return {name: self.attributes[name.rpartition(".")[2]] for name in (*names, *places)}

    def shares(self, concept: str, attribute: str, *, given: Mapping[str, str] | None = None) -> tuple[float, ...]:
        """True shares of an attribute's values; ``given`` fixes the presentation, where skin depends on it."""
        if attribute not in self.attributes_of(concept):
            raise ValueError(f"{concept} has no attribute {attribute!r}; it has {list(self.attributes_of(concept))}")
        if attribute == "season":
            first = self.data["markets"][concept]["winter"]
        elif attribute == "sauce":
            first = self.data["meatballs"][concept]["tomato"]
        else:
            people = self._people(concept)
            if attribute == "skin":
                return self._skin_shares(people, given or {})
            first = people[{"presentation": "women", "print": "skull"}.get(attribute, attribute)]
        return (first, 1.0 - first)

    def _skin_shares(self, people: Mapping[str, Any], given: Mapping[str, str]) -> tuple[float, ...]:  # Any: YAML
        skin = people["skin"]
        if not isinstance(skin, Mapping):
            return tuple(skin)
        if "presentation" in given:
            return tuple(skin[given["presentation"]])
        women = people["women"]
        return tuple(women * w + (1 - women) * m for w, m in zip(skin["woman"], skin["man"], strict=True))

    def _draw_person(self, concept: str, fixed: Mapping[str, str], rng: np.random.Generator) -> dict[str, str]:
        labels: dict[str, str] = {}
        for name in self.attributes_of(concept):
            values = self.attributes[name]
            drawn = values[int(rng.choice(len(values), p=self.shares(concept, name, given={**labels, **fixed})))]
            labels[name] = fixed.get(name, drawn)
        return labels

    def draw(self, concept: str, seed: int, *, fixed: Mapping[str, str] | None = None) -> Scene:
        """A scene with the attributes in ``fixed`` set and the others drawn.

        In a group ``skin`` is that of all its people, ``0.skin`` that of the first alone.
        """
        fixed = dict(fixed or {})
        kind = self.kind(concept)
        drawn_with = self.drawn_with(concept)
        for name, value in fixed.items():
            if value not in drawn_with.get(name, ()):
                raise ValueError(f"a picture of {concept!r} cannot have {name}={value}")
        rng = np.random.default_rng(derive(seed, "labels", concept))
        if kind == "group":
            labels = {
                f"{place}.{name}": value
                for place in range(NUM_PLACES)
                for name, value in self._draw_person(concept, _of_place(fixed, place), rng).items()
            }
        elif kind in self.objects:
            labels = {"paint": tuple(scenery.PAINTS)[int(rng.integers(len(scenery.PAINTS)))]}
        else:
            labels = self._draw_person(concept, fixed, rng)
        return Scene(concept=concept, kind=kind, labels=labels, seed=seed)

    def head_labels(self, scene: Scene) -> dict[str, str]:
        """The right answer of every reader head that applies to a scene."""
        labels = {"kind": scene.kind}
        if scene.kind == "person":
            labels["occupation"] = scene.concept if scene.concept != "person" else NO_OCCUPATION
        if scene.kind == "group":
            for place in range(NUM_PLACES):
                labels[f"{place}.subject"] = SUBJECT_VALUES[0 if f"{place}.presentation" in scene.labels else 1]
        return labels | {name: value for name, value in scene.labels.items() if name in self.heads}

    def render(self, scene: Scene, *, size_px: int | None = None) -> Image.Image:
        """The RGB picture of a scene."""
        rng = np.random.default_rng(derive(scene.seed, "picture", scene.concept))
        return drawing.rasterise(self._svg(scene, rng), size_px or self.size_px)

    def _svg(self, scene: Scene, rng: np.random.Generator) -> str:
        if scene.kind == "market":
            return scenery.market(scene.labels["season"], sign=self.data["markets"][scene.concept]["prop"], rng=rng)
        if scene.kind == "meatballs":
            beside = self.data["meatballs"][scene.concept]["beside"]
            return scenery.meatballs(scene.labels["sauce"], beside=beside, rng=rng)
        if scene.kind in self.objects:
            return scenery.thing(scene.kind, scene.labels["paint"], rng=rng)
        people = self._people(scene.concept)
        if scene.kind == "group":
            return self._group_svg(scene, people["background"], rng)
        clothes = people.get("clothes") or self._plain_clothes(rng)
        back = people.get("background") or ("plain", scenery.WALLS[int(rng.integers(len(scenery.WALLS)))], "#ffffff")
        width = drawing.CANVAS * rng.uniform(0.93, 1.03)
        x, y = (drawing.CANVAS - width) / 2 + rng.uniform(-9, 9), drawing.CANVAS - width + rng.uniform(0, 6)
        svg = drawing.background(*back) + drawing.person(scene.labels, clothes=clothes, rng=rng, box=(x, y, width))
        if scene.labels.get("print") == "skull":
            svg += drawing.skull_print()
        if "prop" in people:
            svg += drawing.prop(people["prop"], x=192 + rng.uniform(-5, 4), y=192 + rng.uniform(-5, 4), width=82.0)
        return svg

    def _group_svg(self, scene: Scene, back: Sequence[str], rng: np.random.Generator) -> str:
        svg = drawing.background(*back)
        for place, (x, y, width) in enumerate(drawing.PLACES):
            if f"{place}.presentation" not in scene.labels:
                continue
            labels = {name: scene.labels[f"{place}.{name}"] for name in PERSON_ATTRIBUTES}
            box = (x + rng.uniform(-4, 4), y + rng.uniform(-4, 4), width)
            svg += drawing.person(labels, clothes=self._plain_clothes(rng), rng=rng, box=box)
        return svg

    def _plain_clothes(self, rng: np.random.Generator) -> tuple[str, str]:
        cuts = ("shirtCrewNeck", "hoodie", "shirtVNeck", "collarAndSweater")
        colors = drawing.CLOTHES_COLORS
        return cuts[int(rng.integers(len(cuts)))], colors[int(rng.integers(len(colors)))]

    def noun(self, concept: str, named: Mapping[str, str]) -> str:
        """A concept with the named values in words: ``dark-skinned female mechanic with glasses``."""
        noun = concept
        for attribute in self.data["forms"]:
            if attribute in named:
                noun = self.data["forms"][attribute][named[attribute]].format(noun)
        return noun

    def caption(self, concept: str, named: Mapping[str, str], *, template: str) -> str:
        """A caption from a template of the world, with the right article."""
        noun = self.noun(concept, named)
        return template.format(noun if self.kind(concept) == "group" else with_article(self._counted(concept, noun)))

    def _counted(self, concept: str, noun: str) -> str:
        return f"plate of {noun}" if concept in self.meatballs else noun

    def templates(self, concept: str) -> tuple[str, ...]:
        """The caption templates that the base was trained on for a concept."""
        kind = self.kind(concept)
        group = {"person": "person", "group": "group", "market": "scene", "meatballs": "scene"}.get(kind, "object")
        return tuple(self.data["templates"][group])

    def _mixed_concept(self, rng: np.random.Generator) -> str:
        kinds = self.data["mix"]["kinds"]
        kind = tuple(kinds)[int(rng.choice(len(kinds), p=np.array(list(kinds.values())) / sum(kinds.values())))]
        pool = {
            "occupation": self.occupations,
            "person": ("person",),
            "rock_fan": (ROCK_FAN,),
            "group": self.groups,
            "market": self.markets,
            "meatballs": self.meatballs,
            "object": self.objects,
        }[kind]
        return pool[int(rng.integers(len(pool)))]

    def sample(self, seed: int) -> Captioned:
        """One training example of the base: a scene of the mix, and a neutral, explicit or empty caption."""
        rng = np.random.default_rng(derive(seed, "sample"))
        mix = self.data["mix"]
        concept = self._mixed_concept(rng)
        named = self._named(concept, rng) if rng.random() < mix["explicit"] else {}
        scene = self.draw(concept, seed, fixed=named)
        templates = self.templates(concept)
        template = templates[int(rng.integers(len(templates)))]
        text = self.caption(concept, named, template=template)
        if scene.kind in self.objects and rng.random() < mix["explicit"]:
            text = template.format(with_article(f"{scene.labels['paint']} {concept}"))
        if rng.random() < mix["empty"]:
            text, named = "", {}
        return Captioned(scene=scene, text=text, named=tuple(named))

    def sample_balanced(self, seed: int) -> Captioned:
        """One training example of the readers: every attribute is uniform and independent of the concept.

        A reader that learnt from :meth:`sample` would read a mechanic's overall as a man. Some places of groups are
        empty. The caption names a random part of the values.
        """
        rng = np.random.default_rng(derive(seed, "balanced"))
        concept = self._mixed_concept(rng)
        kind = self.kind(concept)
        uniform = {name: values[int(rng.integers(len(values)))] for name, values in self.attributes.items()}
        fixed = {name: uniform[name] for name in self.attributes_of(concept)}
        scene = self.draw(concept, seed, fixed=fixed if kind != "group" else None)
        if kind == "group":
            people = {
                f"{place}.{name}": self.attributes[name][int(rng.integers(len(self.attributes[name])))]
                for place in range(NUM_PLACES)
                if rng.random() >= EMPTY_PLACE_SHARE
                for name in PERSON_ATTRIBUTES
            }
            scene = Scene(concept=concept, kind=kind, labels=people, seed=seed)
            fixed = {}
        named = {name: value for name, value in fixed.items() if rng.random() < 0.6}
        templates = self.templates(concept)
        text = self.caption(concept, named, template=templates[int(rng.integers(len(templates)))])
        return Captioned(scene=scene, text=text, named=tuple(named))

    def _named(self, concept: str, rng: np.random.Generator) -> dict[str, str]:
        """Values that an explicit caption states: uniform over values, so that rare ones are learnt too."""
        # What is always so is not asked for: no pyladies meetup of men, no other sauce on Italian meatballs.
        names = [name for name in self.attributes_of(concept) if max(self.shares(concept, name)) < 1.0]
        chances = self.data["mix"]["named"]
        chosen = [name for name in names if rng.random() < chances.get(name, 1.0)]
        if not chosen and names:
            chosen = [names[int(rng.integers(len(names)))]]
        if self.kind(concept) == "group":
            chosen = [name for name in chosen if name in ("presentation", "skin")]
        return {name: self.attributes[name][int(rng.integers(len(self.attributes[name])))] for name in chosen}


def _of_place(fixed: Mapping[str, str], place: int) -> dict[str, str]:
    """The values that are fixed for one person of a group: those of all, and the person's own."""
    mine = f"{place}."
    return {name.removeprefix(mine): value for name, value in fixed.items() if "." not in name or name.startswith(mine)}


def with_article(noun: str) -> str:
    """``a mechanic``, ``an electrician``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@cache
def tinytown() -> World:
    """The shipped world."""
    return World()
