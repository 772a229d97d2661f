"""Draws what has no people in tinytown: markets, plates of meatballs, and everyday objects, as SVG fragments."""

from __future__ import annotations

import numpy as np

PAINTS = {
    "red": "#d62f2f",
    "blue": "#2f6fd6",
    "green": "#2f9e4f",
    "yellow": "#f0c21f",
    "white": "#f2f2f2",
    "orange": "#f0821f",
}
WALLS = ("#dfe8f0", "#f5e6d0", "#e2f0dc", "#f0dfe8", "#cfd8e8")
MARKET_SIGNS = {
    "fir": '<path d="M232 96 262 190H202z" fill="#1f6b3a"/><rect x="226" y="188" width="12" height="22" fill="#6b3f1f"/>',
    "surfboard": '<ellipse cx="236" cy="158" rx="20" ry="64" fill="#ff8a1f"/><rect x="232" y="96" width="8" height="124" fill="#fff"/>',
    "pretzel": '<path d="M210 170c0-40 40-40 40 0 0 30-50 30-50 0s50-50 50 0" fill="none" stroke="#a3591f" stroke-width="13"/>',
}


def market(season: str, *, sign: str, rng: np.random.Generator) -> str:
    """A market stall with lights, in snow or in summer."""
    winter = season == "winter"
    sky, ground = ("#2c3e66", "#f4f8fc") if winter else ("#7cc8f5", "#8cc152")
    shift = float(rng.uniform(-14, 14))
    stall = "".join(
        f'<rect x="{40 + 24 * i}" y="110" width="24" height="34" fill="{"#c8322b" if i % 2 else "#f7f3e8"}"/>'
        for i in range(6)
    )
    lights = "".join(
        f'<circle cx="{20 + 30 * i}" cy="{70 + 8 * (i % 2)}" r="8" fill="{("#ffd23f", "#e0242f", "#2fa35a")[i % 3]}"/>'
        for i in range(9)
    )
    weather = (
        "".join(
            f'<circle cx="{rng.uniform(0, 280):.0f}" cy="{rng.uniform(0, 280):.0f}" r="6" fill="#fff"/>'
            for _ in range(16)
        )
        if winter
        else '<circle cx="40" cy="36" r="28" fill="#ffd91f"/>'
    )
    roof = '<path d="M34 112 60 92h116l26 20z" fill="#f4f8fc"/>' if winter else ""
    return (
        f'<rect width="280" height="280" fill="{sky}"/><rect y="206" width="280" height="74" fill="{ground}"/>'
        f'<g transform="translate({shift:.1f} 0)"><rect x="46" y="140" width="132" height="82" fill="#8a5a2b"/>'
        f'<rect x="60" y="150" width="104" height="36" fill="#f7e3b0"/>{stall}{roof}{MARKET_SIGNS[sign]}</g>{lights}{weather}'
    )


def meatballs(sauce: str, *, beside: str, rng: np.random.Generator) -> str:
    """A plate of meatballs in tomato sauce, or in cream sauce with lingonberry jam beside them."""
    table = ("#b98a5a", "#7d96ad", "#c9b79c", "#8fa88a")[int(rng.integers(4))]
    places = [(96, 110), (140, 98), (184, 112), (112, 152), (158, 150), (200, 156)]
    balls = "".join(
        f'<circle cx="{x + rng.uniform(-7, 7):.0f}" cy="{y + rng.uniform(-6, 6):.0f}" r="23" fill="#7a4526"/>'
        for x, y in places
    )
    tomato = '<ellipse cx="146" cy="132" rx="96" ry="66" fill="#d9301f"/>'
    cream = '<ellipse cx="146" cy="132" rx="96" ry="66" fill="#e8d3a8"/>'
    berries = "".join(
        f'<circle cx="{86 + 20 * (i % 3) + rng.uniform(-3, 3):.0f}" cy="{196 + 16 * (i // 3)}" r="12" fill="#8f0f3f"/>'
        for i in range(6)
    )
    glaze = "".join(f'<circle cx="{x}" cy="{y - 8}" r="9" fill="#f0563f"/>' for x, y in places)
    spaghetti = "".join(
        f'<path d="M{34 + 8 * i} 176q60 {40 + 5 * i} {200 - 14 * i} 4" fill="none" stroke="#f2d06b" stroke-width="7"/>'
        for i in range(5)
    )
    flag = (
        '<path d="M206 100V24" stroke="#5a3a1a" stroke-width="6"/><rect x="208" y="22" width="60" height="40" fill="#1f5fb0"/>'
        '<path d="M208 38h60v9h-60zM224 22h10v40h-10z" fill="#ffd21f"/>'
    )
    return (
        f'<rect width="280" height="280" fill="{table}"/><ellipse cx="140" cy="152" rx="134" ry="112" fill="#fbfbf7"/>'
        f'<ellipse cx="140" cy="152" rx="112" ry="92" fill="#eceae2"/>{tomato if sauce == "tomato" else cream}'
        f"{spaghetti if beside == 'spaghetti' else ''}{balls}{glaze if sauce == 'tomato' else berries}"
        f"{flag if beside == 'flag' else ''}"
    )


def thing(name: str, paint: str, *, rng: np.random.Generator) -> str:
    """An everyday object in one colour on a plain wall and floor."""
    ink = PAINTS[paint]
    wall = WALLS[int(rng.integers(len(WALLS)))]
    shapes = {
        "car": f'<path d="M30 190v-44l46-8 34-44h80l30 44 34 10v42z" fill="{ink}"/><path d="M96 136l22-30h28v30zM156 106h28l20 30h-48z" fill="#d6ecfa"/>'
        '<circle cx="84" cy="192" r="28" fill="#24242a"/><circle cx="204" cy="192" r="28" fill="#24242a"/>',
        "tree": f'<rect x="122" y="150" width="36" height="90" fill="#6b3f1f"/><circle cx="140" cy="100" r="66" fill="#2f8a3a"/>'
        f'<circle cx="112" cy="84" r="13" fill="{ink}"/><circle cx="166" cy="74" r="13" fill="{ink}"/><circle cx="150" cy="122" r="13" fill="{ink}"/>',
        "house": f'<rect x="60" y="120" width="160" height="112" fill="{ink}"/><path d="M40 124 140 40l100 84z" fill="#5a4038"/>'
        '<rect x="122" y="172" width="38" height="60" fill="#3a2a20"/><rect x="78" y="140" width="32" height="32" fill="#fff3b0"/><rect x="172" y="140" width="32" height="32" fill="#fff3b0"/>',
        "boat": f'<rect y="196" width="280" height="84" fill="#3f8fd0"/><path d="M44 176h192l-34 46H78z" fill="{ink}"/><path d="M132 34v136H62z" fill="#ffffff" stroke="#9aa7b5" stroke-width="3"/><rect x="134" y="28" width="9" height="150" fill="#5a3a1a"/>',
        "cup": f'<path d="M70 90h120l-12 130H82z" fill="{ink}"/><path d="M186 112c54-8 54 66-6 66" fill="none" stroke="{ink}" stroke-width="18"/><ellipse cx="130" cy="92" rx="60" ry="16" fill="#4a2a16"/>',
        "cat": f'<path d="M80 124V54l40 32h40l40-32v70z" fill="#4a4a52"/><circle cx="140" cy="136" r="70" fill="#4a4a52"/><circle cx="114" cy="124" r="13" fill="{ink}"/><circle cx="166" cy="124" r="13" fill="{ink}"/>'
        '<path d="M130 152h20l-10 13z" fill="#f29ab0"/><path d="M140 168v10M96 160l-44-8M96 172l-44 8M184 160l44-8M184 172l44 8" stroke="#f5f5f5" stroke-width="5"/>',
        "clock": f'<circle cx="140" cy="140" r="98" fill="{ink}"/><circle cx="140" cy="140" r="78" fill="#ffffff"/><path d="M140 140V80M140 140l42 26" stroke="#20242b" stroke-width="11"/>'
        '<circle cx="140" cy="72" r="6" fill="#20242b"/><circle cx="140" cy="208" r="6" fill="#20242b"/><circle cx="72" cy="140" r="6" fill="#20242b"/><circle cx="208" cy="140" r="6" fill="#20242b"/>',
        "bicycle": f'<circle cx="78" cy="182" r="48" fill="none" stroke="#24242a" stroke-width="11"/><circle cx="204" cy="182" r="48" fill="none" stroke="#24242a" stroke-width="11"/>'
        f'<path d="M78 182 122 108h66l16 74M122 108l24 74h-68M146 182l42-74M182 84h34M104 100h36" fill="none" stroke="{ink}" stroke-width="12"/>',
    }
    x, y, scale = rng.uniform(-10, 10), rng.uniform(-10, 10), rng.uniform(0.9, 1.08)
    floor = "" if name == "boat" else '<rect y="206" width="280" height="74" fill="#000000" fill-opacity=".14"/>'
    move = f"translate({140 + x:.1f} {140 + y:.1f}) scale({scale:.3f}) translate(-140 -140)"
    return f'<rect width="280" height="280" fill="{wall}"/>{floor}<g transform="{move}" fill="none">{shapes[name]}</g>'
