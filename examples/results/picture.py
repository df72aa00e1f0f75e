"""Draws picture.svg, how SparseDrop works: python examples/results/picture.py

Its colours are readable on light and on dark pages.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

KEPT = ((0, 1, 3, 4), (0, 2, 5), (1, 2, 3, 5), (3, 4, 5))
"""The kept ones of six blocks, by row of blocks."""
SHOWN = 1
"""The row of blocks whose product is shown."""
TEXT, STRONG, SINGLE = "#7d8590", "#2f81c7", "#d0763f"
PALE = f'{STRONG}" fill-opacity="0.35'
"""Fades into either background."""
BLOCK, GAP = 30, 3


def svg() -> str:
    random.seed(0)
    kept = {(r, c) for r, columns in enumerate(KEPT) for c in columns}

    def x(r: int, c: int) -> str | None:
        return (STRONG if r == SHOWN else PALE) if (r, c) in kept else None

    parts = [
        *heading(20, "Dropout", "drops single values"),
        *grid(20, 100, 16, 24, 8, 1, lambda r, c: SINGLE if random.random() > 0.45 else None),
        *caption(20, "Every block still has something in it:", "nothing can be skipped."),
        *heading(320, "SparseDrop", "drops whole blocks, 128 × 128 values each"),
        *grid(320, 107, 4, 6, BLOCK, GAP, x),
        sign(535, 178, "×"),
        *grid(555, 74, 6, 4, BLOCK, GAP, lambda r, c: STRONG if r in KEPT[SHOWN] else PALE),
        sign(706, 178, "="),
        *grid(725, 107, 4, 4, BLOCK, GAP, lambda r, c: STRONG if r == SHOWN else PALE),
        label(418, 259, "X"),
        label(620, 286, "Wᵀ"),
        label(790, 259, "Y"),
        *caption(
            320,
            "A row of blocks multiplies only the blocks that it keeps, here 3 of 6.",
            "The gradients of X and of W skip the same blocks:",
            "all three products do 1 − p of the work.",
        ),
    ]
    style = f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" fill="{TEXT}"'
    size = 'viewBox="0 0 900 370" width="900" height="370"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def grid(
    left: int, top: int, rows: int, columns: int, size: int, gap: int, color: Callable[[int, int], str | None]
) -> list[str]:
    """Squares in their color, or empty ones where there is none."""
    found = []
    for r in range(rows):
        for c in range(columns):
            fill = color(r, c)
            look = f'fill="{fill}"' if fill else f'fill="none" stroke="{TEXT}" stroke-opacity="0.45"'
            inset = 0 if fill else 0.5
            side, rounded = size - 2 * inset, 3 if size > 10 else 1
            x, y = left + c * (size + gap) + inset, top + r * (size + gap) + inset
            found.append(f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" rx="{rounded}" {look}/>')
    return found


def heading(left: int, title: str, text: str) -> list[str]:
    return [
        f'<text x="{left}" y="30" font-size="20" font-weight="600">{title}</text>',
        f'<text x="{left}" y="52" font-size="14">{text}</text>',
    ]


def caption(left: int, *lines: str) -> list[str]:
    return [f'<text x="{left}" y="{312 + 20 * i}" font-size="14">{line}</text>' for i, line in enumerate(lines)]


def sign(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="24" text-anchor="middle">{text}</text>'


def label(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="15" font-style="italic" text-anchor="middle">{text}</text>'


if __name__ == "__main__":
    Path(__file__).with_name("picture.svg").write_text(svg(), encoding="utf-8")
