"""Draws the output of "make demo" as a terminal, for the README: recording.py FILE.svg <OUTPUT

Only what fits onto one screen: the two pods without usernsd, its start, and the same pods with it.
"""

import sys

from rich.console import Console
from rich.text import Text

WIDTH = 118
FROM, TO = "=== Without usernsd", "# what the agent changed on the host"

lines = sys.stdin.read().splitlines()
ends = [number for number, line in enumerate(lines) if line.startswith((FROM, TO))]
if len(ends) != 2 or not any("All of it held" in line for line in lines):
    sys.exit("recording.py: this is not the output of a demo that passed")
console = Console(record=True, width=WIDTH, file=open("/dev/null", "w"), force_terminal=True)
console.print(Text("# make demo", style="bold"))
for line in lines[ends[0] : ends[1]]:
    style = ""
    if line.startswith("==="):
        style = "bold cyan"
    elif line.startswith("√"):
        style = "green"
    elif "# " in line[:14] or line.startswith("#"):
        style = "bold"
    console.print(Text(line if len(line) <= WIDTH else line[: WIDTH - 1] + "…", style=style), no_wrap=True)
svg = console.export_svg(title="usernsd", unique_id="demo")
# No font of another place: a viewer has one of its own.
start = svg.index("@font-face")
svg = svg[:start] + svg[svg.index(".demo-matrix", start) :].replace("Fira Code, ", "")
with open(sys.argv[1], "w", encoding="utf-8") as file:
    file.write(svg)
