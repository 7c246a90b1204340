"""Journals: whatever ends a process or fills the disk, at any point, no row that was added is lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headnote_cli.runs.files import Journal, write_lines
from tests.conftest import examples
from tests.faults import FAULTS, Disk, Killed

ROWS = [{"n": number, "text": f"Höhe ≤ {number} m \u2028 \ud800"} for number in range(4)]


def command(folder: Path, added: list[int] | None = None) -> None:
    """Write the rows that are not there yet, in any order, and publish all in theirs; as `slds generate` does."""
    output, journal = folder / "out.jsonl", Journal(folder / "out.jsonl.part")
    done = {row["n"]: row for file in (Journal(output), journal) for row in file.lines()}
    for row in reversed(ROWS):
        if row["n"] not in done:
            journal.append(row)
            done[row["n"]] = row
            (added if added is not None else []).append(row["n"])
    journal.publish(output, [done[row["n"]] for row in ROWS])


def whole(folder: Path) -> bytes:
    folder.mkdir()
    command(folder)
    return (folder / "out.jsonl").read_bytes()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_any_point_loses_no_row_and_the_same_command_ends_in_the_same_file(
    fault: str, tmp_path: Path
) -> None:
    expected = whole(tmp_path / "whole")
    with Disk() as disk:
        whole(tmp_path / "counted")
    assert disk.points > 20
    for point in range(disk.points):
        folder = tmp_path / str(point)
        folder.mkdir()
        added: list[int] = []
        with Disk(fault, point), pytest.raises((OSError, Killed)):
            command(folder, added)
        kept = [row["n"] for name in ("out.jsonl", "out.jsonl.part") for row in Journal(folder / name).lines()]
        assert set(added) <= set(kept), f"point {point}"
        again: list[int] = []
        command(folder, again)
        assert not set(again) & set(added), f"point {point}: written twice"
        assert (folder / "out.jsonl").read_bytes() == expected, f"point {point}"
        assert [file.name for file in folder.iterdir()] == ["out.jsonl"], f"point {point}"


@pytest.mark.parametrize("point", range(0, 25, 5))
def test_a_process_that_ends_without_a_word_loses_no_row(point: int, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.faults import Disk; from tests.unit.runs.test_files import command\n"
        "with Disk('gone', int(sys.argv[2])): command(Path(sys.argv[1]))"
    )
    (tmp_path / "gone").mkdir()
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "gone", str(point)], check=False)
    assert ended.returncode == 9
    command(tmp_path / "gone")
    assert (tmp_path / "gone" / "out.jsonl").read_bytes() == whole(tmp_path / "whole")


@settings(max_examples=examples(500))
@given(
    st.lists(st.dictionaries(st.text(st.characters(categories=["L", "Cc", "Cs", "Zl"])), st.integers()), min_size=1),
    st.integers(0, 40),
)
def test_a_journal_cut_anywhere_gives_back_its_whole_lines_and_takes_more(rows: list[dict[str, int]], cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        for row in rows:
            journal.append(row)
        assert journal.lines() == rows
        written = journal.path.read_bytes()
        left = written[: max(0, len(written) - cut)]
        journal.path.write_bytes(left)
        before = journal.lines()
        assert rows[: left.count(b"\n")] == before[: left.count(b"\n")]
        assert len(before) - left.count(b"\n") in (0, 1), "the last may lack its line end alone"
        assert before == rows[: len(before)]
        journal.append({"one": 1})
        assert journal.path.read_bytes().startswith(left)
        assert journal.lines() == [*before, {"one": 1}]


def test_lines_that_are_no_objects_are_passed_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    assert journal.lines() == []
    journal.path.write_bytes(b'{"a": 1}\n\n[1]\n\xc3\n\0\0\0\n{"b": 2}')
    assert journal.lines() == [{"a": 1}, {"b": 2}]


def test_the_disk_has_a_line_before_the_next_one_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_size) or fsync(descriptor)
    )
    journal = Journal(tmp_path / "j.jsonl")
    for row in ROWS:
        journal.append(row)
        assert journal.path.stat().st_size in flushed


def test_lines_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "scored.jsonl"
    write_lines(file, [{"a": 1}])
    part = tmp_path / "scored.jsonl.part"
    part.write_text("another command's\n")

    def failing() -> object:
        yield {"a": 2}
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        write_lines(file, failing())
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"a": 1}]
    assert part.read_text() == "another command's\n"
    assert len(list(tmp_path.iterdir())) == 2
