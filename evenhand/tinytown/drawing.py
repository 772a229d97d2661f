"""Draws tinytown: DiceBear avatars by Pablo Stanley (Avataaars), with our own props, backgrounds, scenes and objects, as SVG.

A canvas is 280 units wide, as Avataaars' own is; drawings depend on their arguments and on the generator alone.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
import yaml
from dicebear import Avatar, Style
from PIL import Image

CANVAS = 280
SKINS = {
    "light": ("#ffdbb4", "#f7cfa3"),
    "medium": ("#cb8b57", "#be7c48"),
    "dark": ("#6a4430", "#573623"),
}
HAIR_COLORS = ("#2c1b18", "#4a312c", "#724133", "#b58143", "#a55728")
HATS = ("#c0392b", "#2e5fa3", "#2d8a57", "#e0b83a", "#34343c")
# `bun`, `hat` and `curvy` are left out: at 64 px the first reads as short hair, the second hides it, the third blurs.
TOPS = {
    "woman": ("bob", "longButNotTooLong", "miaWallace", "straight01", "straight02", "straightAndStrand"),
    "man": ("shortCurly", "shortFlat", "shortRound", "shortWaved", "sides", "theCaesar", "theCaesarAndSidePart"),
}
BEARDS = ("beardLight", "beardMedium", "moustacheFancy")
BEARD_SHARE = 0.45
CLOTHES_COLORS = ("#65c9ff", "#5199e4", "#25557c", "#929598", "#3c4f5c", "#a7ffc4", "#ffafb9", "#ff5c5c", "#e6e6e6")
# Where the three people of a group stand, in canvas units: x, y, width. The one in front is drawn last.
PLACES = ((-6, 22, 146), (140, 22, 146), (67, 134, 146))

PROPS: dict[str, str] = yaml.safe_load(Path(__file__).with_name("props.yaml").read_text(encoding="utf-8"))


@cache
def _style() -> Style:
    return Style(json.loads(files("dicebear_styles").joinpath("avataaars.json").read_text("utf-8")))


def rasterise(svg: str, size_px: int) -> Image.Image:
    """An RGB image of an SVG whose canvas is 280 units wide."""
    full = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {CANVAS} {CANVAS}">{svg}</svg>'
    data = resvg_py.svg_to_bytes(svg_string=full, width=size_px, height=size_px, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(data))).convert("RGB")


def _choice(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def person(
    labels: Mapping[str, str], *, clothes: Sequence[str], rng: np.random.Generator, box: tuple[float, float, float]
) -> str:
    """A person in ``box`` (x, y, width in canvas units), as an SVG fragment."""
    presentation = labels["presentation"]
    options: dict[str, Any] = {  # Any: DiceBear's options
        "seed": str(rng.integers(2**31)),
        "idRandomization": False,
        "topVariant": [_choice(rng, TOPS[presentation])],
        "topProbability": 100,
        "hairColor": [_choice(rng, HAIR_COLORS)],
        "skinColor": [_choice(rng, SKINS[labels["skin"]])],
        "clothesVariant": [clothes[0]],
        "clothesColor": [clothes[1]],
        "eyesVariant": [_choice(rng, ("default", "happy"))],
        "eyebrowsVariant": [_choice(rng, ("default", "defaultNatural"))],
        "mouthVariant": [_choice(rng, ("default", "smile", "serious"))],
        "accessoriesProbability": 0,
        "facialHairProbability": 0,
    }
    bearded = rng.random() < BEARD_SHARE
    beard, hat, rim = _choice(rng, BEARDS), _choice(rng, HATS), _choice(rng, ("#16161d", "#16161d", "#8c1f28"))
    if presentation == "man" and bearded:
        options |= {
            "facialHairProbability": 100,
            "facialHairVariant": [beard],
            "facialHairColor": options["hairColor"],
        }
    avatar = Avatar(_style(), options).to_string()
    # Ids are made unique: several avatars share one picture.
    mark = f"p{rng.integers(2**31)}"
    avatar = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{mark}", avatar)
    inner = avatar[avatar.index(">") + 1 : avatar.rindex("</svg>")]
    inner = re.sub(r"<metadata.*?</metadata>", "", inner, flags=re.DOTALL)
    if labels["glasses"] == "worn":
        inner += (
            f'<g fill="#ffffff" fill-opacity=".35" stroke="{rim}" stroke-width="9"><circle cx="112" cy="112" r="21"/>'
            f'<circle cx="168" cy="112" r="21"/><path d="M133 110h14M91 108l-12-5M189 108l12-5" fill="none"/></g>'
        )
    if labels["headwear"] == "worn":
        inner += (
            f'<path d="M82 72C80 18 104 2 140 2s60 16 58 70z" fill="{hat}"/>'
            f'<rect x="52" y="62" width="176" height="20" rx="10" fill="{hat}"/>'
            '<rect x="82" y="52" width="116" height="12" fill="#000000" fill-opacity=".35"/>'
        )
    x, y, width = box
    return f'<g transform="translate({x:.2f} {y:.2f}) scale({width / CANVAS:.4f})" fill="none">{inner}</g>'


def prop(name: str, *, x: float, y: float, width: float) -> str:
    """A prop in a corner, as an SVG fragment."""
    return f'<g transform="translate({x:.2f} {y:.2f}) scale({width / 24:.4f})" fill="none">{PROPS[name]}</g>'


def skull_print() -> str:
    """A white skull on the chest."""
    return (
        '<g fill="#f4f4f4"><circle cx="140" cy="236" r="24"/><rect x="126" y="254" width="28" height="18" rx="4"/></g>'
        '<g fill="#15151a"><circle cx="131" cy="236" r="7"/><circle cx="149" cy="236" r="7"/>'
        '<path d="M136 250h8v5h-8zM134 262h3v10h-3zM143 262h3v10h-3z"/></g>'
    )


def background(pattern: str, first: str, second: str) -> str:
    """A background pattern in two colours, as an SVG fragment that fills the canvas."""
    full = f'<rect width="{CANVAS}" height="{CANVAS}" fill="{first}"/>'
    ink = f'fill="{second}"'
    shapes = {
        "plain": "",
        "half": f'<rect y="150" width="280" height="130" {ink}/>',
        "stripes": "".join(f'<rect x="{x}" width="28" height="280" {ink}/>' for x in range(0, 280, 56)),
        "dots": "".join(
            f'<circle cx="{x}" cy="{y}" r="12" {ink}/>' for x in (24, 82, 198, 256) for y in (28, 84, 140, 196)
        ),
        "tiles": "".join(
            f'<rect x="{x}" width="6" height="280" {ink}/><rect y="{x}" width="280" height="6" {ink}/>'
            for x in range(24, 280, 56)
        ),
        "grid": "".join(f'<rect y="{y}" width="280" height="10" {ink}/>' for y in range(14, 280, 35)),
        "checks": "".join(
            f'<rect x="{x * 40}" y="{y * 40}" width="40" height="40" {ink}/>'
            for x in range(7)
            for y in range(4)
            if (x + y) % 2
        ),
        "windows": "".join(f'<rect x="{x}" y="40" width="44" height="70" rx="20" {ink}/>' for x in (14, 222)),
        "skyline": f'<path d="M0 280V110h40V60h40v90h120V40h40v70h40v170z" {ink}/>',
        "bricks": "".join(
            f'<rect x="{x - 35 * (y % 2)}" y="{y * 35}" width="64" height="29" {ink}/>'
            for y in range(8)
            for x in range(0, 320, 70)
        ),
        "shelves": "".join(
            f'<rect x="{x}" y="{y}" width="14" height="54" {ink}/>'
            for y in (12, 92, 172)
            for x in (6, 26, 46, 216, 236, 256)
        ),
        "banner": f'<rect width="280" height="34" {ink}/>',
    }
    return full + shapes[pattern]
