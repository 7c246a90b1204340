"""Draw the rooms from the code: docs/architecture.svg and the table in docs/architecture.md.

    python scripts/architecture.py [--check]

A room is a folder or a module of the package. Its floor follows from its imports, its description is its docstring.
`--check` writes nothing and exits with 1 if the files are not what the code says.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "headnote_cli"
PAGE, PICTURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "architecture.svg"
BEGIN, END = "<!-- rooms: scripts/architecture.py -->", "<!-- end of rooms -->"
WIDTH, HEIGHT, GAP, MARGIN = 1000, 64, 10, 20


def rooms() -> dict[str, set[str]]:
    """The rooms that each room imports, at the top of a file or inside a function."""
    found: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        others = found.setdefault(room, set())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("headnote_cli."):
                others.add(node.module.split(".")[1])
        others.discard(room)
    return {room: others for room, others in found.items() if not room.startswith("__")}


def floors() -> list[list[str]]:
    """The rooms by floor, the lowest first: each as low as its imports allow.

    Raises:
        CycleError: Two rooms import each other.
    """
    sorter = TopologicalSorter(rooms())
    sorter.prepare()
    found = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        sorter.done(*ready)
        found.append(ready)
    return found


def description(room: str) -> str:
    """The first paragraph of a room's docstring."""
    folder = PACKAGE / room
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def table() -> str:
    """Markdown: floor, room, what is done there, its files."""
    lines = ["| floor | room | what is done there | files |", "|---|---|---|---|"]
    for floor, names in reversed(list(enumerate(floors()))):
        for room in names:
            files = sorted(file.stem for file in (PACKAGE / room).glob("*.py") if file.stem != "__init__")
            shown = f"{room}/" if files else room
            lines.append(f"| {floor} | `{shown}` | {description(room)} | {', '.join(files)} |")
    return "\n".join(lines)


def picture() -> str:
    """SVG: a row of boxes for each floor."""
    levels = floors()
    height = len(levels) * (HEIGHT + GAP) + 2 * MARGIN + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title"'
        " font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">",
        '<title id="title">The rooms of slds by floor: a room imports only from floors below its own</title>',
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#fdfcf9"/>',
        f'<text x="{MARGIN}" y="34" font-size="16" font-weight="600" fill="#1f2933">'
        "Who may import whom: downwards only</text>",
    ]
    for row, names in enumerate(reversed(levels)):
        top = MARGIN + 30 + row * (HEIGHT + GAP)
        width = (WIDTH - 2 * MARGIN - GAP * (len(names) - 1)) / len(names)
        for column, room in enumerate(names):
            left = MARGIN + column * (width + GAP)
            parts.append(
                f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{HEIGHT}" rx="6" fill="#e3ecf7"'
                f' stroke="#9aa5b1"/><text x="{left + 12:.0f}" y="{top + 22}" font-size="14" font-weight="600"'
                f' fill="#1f2933">{room}</text>'
            )
            lines = textwrap.wrap(description(room).replace("`", ""), int(width / 6.3), max_lines=2, placeholder=" …")
            for number, line in enumerate(lines):
                parts.append(
                    f'<text x="{left + 12:.0f}" y="{top + 40 + 15 * number}" font-size="11.5" fill="#3e4c59">'
                    f"{escape(line)}</text>"
                )
    return "\n".join([*parts, "</svg>"]) + "\n"


def page() -> str:
    """The page with its table renewed."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    wanted = {PAGE: page(), PICTURE: picture()}
    stale = [file for file, text in wanted.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        sys.exit(f"run python scripts/architecture.py: {', '.join(file.name for file in stale)}" if stale else 0)
    for file in stale:
        file.write_text(wanted[file], encoding="utf-8")


if __name__ == "__main__":
    main()
