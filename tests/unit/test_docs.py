"""The help and the pages: they fit, they end with an example, and they say what the app says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from headnote_cli.cli.app import app
from scripts import architecture, reference
from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCKS = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]
LINES = sorted({line for block in BLOCKS for line in block.splitlines() if line.startswith("slds ")})


def calls(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of the app, groups too, as the words that call it."""
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from calls(inner, (*words, name))


def parse(line: str) -> None:
    """Raises what the command would if it knew not the line's options."""
    words = shlex.split(line.partition(" | ")[0].partition(" > ")[0])
    command: Any = get_command(app)
    command.commands[words[1]].make_context(words[1], words[2:])


@pytest.mark.parametrize("words", list(calls(get_command(app))), ids=" ".join)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_terminal_and_ends_with_two_examples_and_a_page(
    columns: int, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit, match="0"):  # the runner of the other tests would hold the help at 80 columns
        app([*words, "--help"], prog_name="slds")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert max(map(len, lines)) <= columns
    assert not any("..." in line.replace("[ARGS]...", "") for line in lines), "a summary is cut off"
    if words and words[-1] not in ("diff", "list"):
        *_, head, first, second, page = (line.strip() for line in lines)
        assert head == "Examples:"
        for example in (first, second):
            assert example.startswith(f"slds {words[0]}"), "on one line, to be copied"
            parse(example)
        assert (ROOT / page.removeprefix("Page: ")).is_file()


def test_the_shell_offers_keys_cards_presets_and_checkpoints() -> None:
    for words, offered in (
        ("train --set max_l", "max_length="),
        ("check-memory --gpu L4", "L40S"),
        ("generate --preset s", "slds-paper"),
        ("generate --lang d", "de"),
        (f"merge --config {ROOT / 'configs/demo.yaml'} --checkpoint la", "latest"),
    ):
        environment = {
            "_SLDS_COMPLETE": "complete_bash",
            "COMP_WORDS": f"slds {words}",
            "COMP_CWORD": str(len(words.split())),
        }
        result = CliRunner().invoke(app, [], prog_name="slds", env=environment)
        assert offered in result.stdout.splitlines(), words


def test_troubleshooting_quotes_messages_that_exist() -> None:
    source = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "headnote_cli").rglob("*.py"))
    headings = re.findall(r"^### (`.*`)$", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.M)
    quoted = [message for heading in headings for message in re.findall(r"`([^`]*)`", heading)]
    assert len(quoted) > 10
    for message in quoted:
        for part in message.split("…"):
            assert part.strip() in source, message


def test_the_pages_hold_the_options_of_the_app() -> None:
    for page, text in reference.pages().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: run `make reference`"


def test_the_check_names_a_page_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for page, text in reference.pages().items():
        copy = tmp_path / "docs" / page.relative_to(ROOT / "docs")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text.replace("| `--grid` |", "| `--lattice` |"), encoding="utf-8")
    monkeypatch.setattr(reference, "DOCS", tmp_path / "docs")
    monkeypatch.setattr("sys.argv", ["reference.py", "--check"])
    assert reference.main() == 1
    assert capsys.readouterr().err.splitlines() == [
        "docs/commands/check-memory.md is not what the app says: run `make reference`"
    ]
    monkeypatch.setattr("sys.argv", ["reference.py"])
    assert reference.main() == 0
    monkeypatch.setattr("sys.argv", ["reference.py", "--check"])
    assert reference.main() == 0


@pytest.mark.parametrize("line", LINES)
def test_every_line_of_the_pages_parses(line: str) -> None:
    parse(line)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_architectures_page_and_picture_are_drawn_from_the_code() -> None:
    for file, drawn in ((architecture.PAGE, architecture.page()), (architecture.PICTURE, architecture.picture())):
        assert file.read_text(encoding="utf-8") == drawn, "run python scripts/architecture.py"


def test_the_files_that_contributing_names_are_there() -> None:
    text = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:headnote_cli|tests|configs|docs)/[\w./]*|\w+\.(?:toml|txt))`", text)
    assert len(named) > 12
    for name in named:
        assert (ROOT / name).exists(), name
    for script in re.findall(r"`python ((?:scripts|benchmarks)/\w+\.py)`", text):
        assert (ROOT / script).is_file(), script
