"""Draws a report as a terminal shows it, for the README.

Example: python scripts/draw_report.py docs/report.svg
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import anyvit
from anyvit.demo import CHECKPOINT
from anyvit.show import Style, text

ACROSS, DOWN, MARGIN = 7.8, 18, 20
"""Pixels of a character's cell, and around the text."""
COLOURS = {"32": "#7ee787", "31": "#ff7b72", "33": "#e3b341", "1": "#ffffff"}


def line(number: int, content: str) -> str:
    """One line of text with escape codes, as SVG; each piece is held to its cells whatever the font."""
    pieces, column, colour = [], 0, "#c9d1d9"
    for part in re.split(r"(\033\[\d+m)", content):
        if code := re.fullmatch(r"\033\[(\d+)m", part):
            colour = COLOURS.get(code.group(1), "#c9d1d9")
            continue
        bold = ' font-weight="600"' if colour == COLOURS["1"] else ""
        for word in re.finditer(r"\S+(?: \S+)*", part):
            x, width = MARGIN + (column + word.start()) * ACROSS, len(word.group()) * ACROSS
            pieces.append(
                f'<text x="{x:.1f}" y="{MARGIN + (number + 1) * DOWN}" textLength="{width:.1f}" '
                f'lengthAdjust="spacingAndGlyphs" fill="{colour}"{bold}>{escape(word.group())}</text>'
            )
        column += len(part)
    return "\n".join(pieces)


def draw(content: str) -> str:
    """A picture of text with escape codes."""
    lines = content.splitlines()
    plain = [re.sub(r"\033\[\d+m", "", one) for one in lines]
    width = 2 * MARGIN + max(map(len, plain)) * ACROSS
    height = 2 * MARGIN + (len(lines) + 0.5) * DOWN
    body = "\n".join(line(n, one) for n, one in enumerate(lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n'
        f'<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="13">\n'
        f"{body}\n</g>\n</svg>\n"
    )


def main() -> None:
    report = text(anyvit.inspect(CHECKPOINT), Style(100, True)).replace(str(CHECKPOINT), CHECKPOINT.name)
    Path(sys.argv[1]).write_text(draw(f"$ anyvit inspect {CHECKPOINT.name}\n\n{report}"), encoding="utf-8")


if __name__ == "__main__":
    main()
