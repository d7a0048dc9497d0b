"""The moving picture of the demo: records a run of `make demo`, and draws it as an SVG that plays by itself.

    python scripts/demo_picture.py record    # a new run, and its picture
    python scripts/demo_picture.py draw      # the picture of the run that is kept
    python scripts/demo_picture.py --check   # whether the picture is that of the run; exit status 1 if not

The recording is kept beside the picture, in the format of asciinema (version 2), so the picture follows from it.
Lines appear when they were printed. The animation is CSS alone, which browsers play in an `<img>` too; whoever has
asked for reduced motion sees the last frame.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORDING = ROOT / "docs" / "pictures" / "demo.cast"
PICTURE = ROOT / "docs" / "pictures" / "demo.svg"
COMMAND = ("make", "demo")

TYPED_S = 0.8
"""When the command has been typed, seconds."""
SHOWN_S = 6.0
"""How long the whole report stays before it begins anew, seconds."""

COLUMNS = 88
CHARACTER_PX, LINE_PX, MARGIN_PX, BAR_PX = 8.43, 19, 18, 28
"""Of a monospaced font of 14 pixels."""
FONTS = 'ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace'
NAME = slice(2, 18)
"""Where the report has the name of a row."""

COLOURS = {"name": "#7aa2f7", "text": "#c0caf5", "bad": "#f7768e", "good": "#9ece6a", "faint": "#565f89"}


@dataclass(frozen=True)
class Line:
    """A line of output, and when it was printed, seconds after the start."""

    at_s: float
    text: str


def record(path: Path) -> None:
    """Run the demo and keep what it prints.

    Raises:
        subprocess.CalledProcessError: the demo found that something is missing.
    """
    subprocess.run(["make", ".venv/.callstate-run"], check=True, cwd=ROOT)  # noqa: S607 - so that it isn't recorded
    began = time.monotonic()
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True, cwd=ROOT) as demo:  # noqa: S603 - fixed
        assert demo.stdout is not None  # noqa: S101 - it was started with a pipe
        lines = [(round(time.monotonic() - began, 3), text) for text in demo.stdout]
    if demo.returncode:
        raise subprocess.CalledProcessError(demo.returncode, COMMAND)
    events = [[at_s, "o", text.replace("\n", "\r\n")] for at_s, text in lines]
    head = {"version": 2, "width": COLUMNS, "height": len(events) + 1, "command": " ".join(COMMAND)}
    path.write_text("".join(json.dumps(event) + "\n" for event in [head, *events]), "utf-8")


def load(path: Path) -> list[Line]:
    """The lines of a recording, which has one in each event."""
    events = [json.loads(line) for line in path.read_text("utf-8").splitlines()[1:]]
    return [Line(at_s, text.rstrip("\r\n")) for at_s, _, text in events]


def colour(line: str) -> str:
    """What a line is, as a class of the style."""
    if line.startswith("nothing is missing"):
        return "good"
    if line.startswith(("  kill -9", "  worker A", "FAULTS")):
        return "bad"
    return "text"


def draw(lines: list[Line]) -> str:
    """The picture, as SVG."""
    total_s = TYPED_S + lines[-1].at_s + SHOWN_S
    width = round(COLUMNS * CHARACTER_PX + 2 * MARGIN_PX)
    height = BAR_PX + (len(lines) + 1) * LINE_PX + 2 * MARGIN_PX
    rules, rows = [], []
    for number, line in enumerate([Line(TYPED_S / 2 - TYPED_S, f"$ {' '.join(COMMAND)}"), *lines]):
        if not line.text:
            continue
        percent = 100 * (TYPED_S + line.at_s) / total_s
        hidden, shown = f"{percent:.2f}%", f"{percent + 0.01:.2f}%"
        rules.append(f"@keyframes l{number}{{0%,{hidden}{{opacity:0}}{shown},100%{{opacity:1}}}}")
        y = BAR_PX + MARGIN_PX + number * LINE_PX + LINE_PX // 2
        rows.append(f'<text x="{MARGIN_PX}" y="{y}" style="animation-name:l{number}">{spans(line.text)}</text>')
    palette = "".join(f".{name}{{fill:{value}}}" for name, value in COLOURS.items())
    dots = "".join(
        f'<circle cx="{MARGIN_PX + 16 * at}" cy="{BAR_PX // 2}" r="5" class="{name}"/>'
        for at, name in enumerate(("bad", "name", "good"))
    )
    size = f'width="{width}" height="{height}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}" role="img">
<title>A run of {" ".join(COMMAND)}: {escape(lines[-1].text)}</title>
<style>
text{{font:14px {FONTS};animation:{total_s:.1f}s linear infinite}}
{palette}
{chr(10).join(rules)}
@media (prefers-reduced-motion:reduce){{text{{animation:none}}}}
</style>
<rect {size} rx="8" fill="#1a1b26"/>
{dots}
{chr(10).join(rows)}
</svg>
"""


def spans(text: str) -> str:
    """A line with its parts in their colours, and in columns whatever the font."""
    kind = "faint" if text.startswith("$") else colour(text)
    name, rest = text[NAME].strip(), text[NAME.stop :]
    if not (text.startswith("  ") and name):
        return f'<tspan class="{kind}">{escape(text)}</tspan>'
    at = [round(MARGIN_PX + column * CHARACTER_PX) for column in (NAME.start, NAME.stop)]
    return (
        f'<tspan x="{at[0]}" class="{"bad" if kind == "bad" else "name"}">{escape(name)}</tspan>'
        f'<tspan x="{at[1]}" class="text">{escape(rest)}</tspan>'
    )


def main() -> int:
    """Do what the argument says."""
    action = sys.argv[1] if len(sys.argv) == 2 else "help"
    if action == "--check":
        return 0 if PICTURE.read_text("utf-8") == draw(load(RECORDING)) else 1
    if action not in ("record", "draw"):
        sys.stderr.write(__doc__ or "")
        return 2
    if action == "record":
        record(RECORDING)
    PICTURE.write_text(draw(load(RECORDING)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
