"""The screen: what goes where, and what never reaches a terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from headnote_cli.errors import DataError, ExitCode, Interrupted
from headnote_cli.events import Evaluated, Evaluating, RowWritten, RunDescribed, Saved, StepDone, TrainingStarted
from headnote_cli.screen.console import Screen, duration, printable, screen_for, size


def terminal(screen: Screen) -> io.StringIO:
    """Make a screen believe that it is a terminal of 60 columns."""
    stream = io.StringIO()
    screen.err = Console(file=stream, force_terminal=True, width=60, highlight=False, markup=False, emoji=False)
    return stream


def test_terminal_escapes_and_direction_marks_are_taken_out() -> None:
    assert printable("a\x1b]0;title\x07b\u202ec\r\nd\te") == "a]0;titlebc\nd\te"


def test_a_name_that_is_no_text_is_escaped_in_lines_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    name = "Urteil-\udcfc.txt"
    screen = Screen(json_mode=True)
    screen.note(f"{name}: read as a PDF")
    screen.data({"file": name, "text": "ü 中"})
    captured = capsys.readouterr()
    assert captured.err == "Urteil-\\udcfc.txt: read as a PDF\n"
    assert captured.out == '{"file": "Urteil-\\udcfc.txt", "text": "ü 中"}\n'
    assert json.loads(captured.out)["file"] == name


def test_court_text_is_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    text = "Art. 259b [recte: 259d] OR :smile: [bold]«x»[/bold] " + "lang " * 40
    Screen().text(text)
    assert capsys.readouterr().out == text + "\n"


def test_results_go_to_stdout_and_notes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.note("by the way")
    screen.text("the result")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("the result\n", "by the way\n")


def test_quiet_keeps_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(quiet=True)
    screen.note("by the way")
    screen.note("mind this", warning=True)
    assert capsys.readouterr().err == "! mind this\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("bad", "f:1", "mend it"), 5),
        (Interrupted("x"), 130),
        (Interrupted("x", exit_code=ExitCode.TERMINATED), 143),
    ],
)
def test_an_error_is_one_message_and_its_exit_code(error: Any, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, screen_for(False, False, False):
        raise error
    assert caught.value.exit_code == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_failure_in_json_mode_is_an_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), screen_for(True, False, False):
        raise DataError("bad", "f:1", "mend it")
    assert json.loads(capsys.readouterr().out) == {
        "error": {"type": "DataError", "message": "bad", "where": "f:1", "hint": "mend it"}
    }


def test_an_unexpected_failure_hides_its_traceback_unless_debug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLDS_DEBUG", "")
    for debug in (False, True):
        with pytest.raises(typer.Exit) as caught, screen_for(False, False, debug):
            raise RuntimeError("surprise")
        assert caught.value.exit_code == 1
        assert ("Traceback" in capsys.readouterr().err) is debug


def test_progress_is_live_in_a_terminal_and_plain_lines_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    step = StepDone(3, 10, 1.5, 1e-4, 0.2, 250.0, 75.0, 5 * 2**20)
    live = Screen()
    stream = terminal(live)
    live.listen(TrainingStarted(10, 0))
    live.listen(step)
    live.close()
    assert "\x1b[" in stream.getvalue()
    assert max(len(line) for line in re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", stream.getvalue()).splitlines()) <= 60
    plain = Screen()
    plain.listen(TrainingStarted(10, 0))
    plain.listen(step)
    plain.close()
    assert capsys.readouterr().err == (
        "step 3/10 · loss 1.5000 (smoothed 1.5000) · lr 1.0e-04 · grad 0.20 · 250 tok/s · peak 5 MiB · 1:15 left\n"
    )


def test_the_loss_is_smoothed_over_steps_and_evaluations_and_saves_stay(capsys: pytest.CaptureFixture[str]) -> None:
    live = Screen()
    stream = terminal(live)
    live.listen(TrainingStarted(2, 0))
    for step, loss in ((1, 2.0), (2, 1.0)):
        live.listen(StepDone(step, 2, loss, 1e-4, 0.2, 250.0, 75.0))
    live.listen(Evaluated(2, 1.0, 2.718))
    live.listen(Saved(2, Path("run/checkpoint-2")))
    live.close()
    assert "(smoothed 1.9000)" in stream.getvalue()
    assert "step 2: evaluation loss 1.0000, perplexity 2.72" in stream.getvalue()
    assert "saved run/checkpoint-2" in stream.getvalue()


def test_a_run_is_described_in_a_panel_in_a_terminal_and_in_plain_lines_elsewhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    event = RunDescribed({"model": "google/gemma-3-4b-it", "data": "train: 30 rows\n  fr_de: 4 rows"})
    screen = Screen()
    screen.listen(event)
    assert capsys.readouterr().err == "model: google/gemma-3-4b-it\ndata: train: 30 rows\n  fr_de: 4 rows\n"
    stream = terminal(screen)
    screen.listen(event)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert lines[0].startswith("╭─ training ─")
    assert {len(line) for line in lines} == {60}
    assert "fr_de" not in stream.getvalue(), "the panel holds the main lines"


def test_sizes_and_durations_for_people() -> None:
    assert (size(3 * 2**30), size(5 * 2**20)) == ("3.0 GiB", "5 MiB")
    assert (duration(75), duration(3661), duration(-1)) == ("1:15", "1:01:01", "0:00")


def test_an_evaluation_shows_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    live = Screen()
    stream = terminal(live)
    live.listen(TrainingStarted(20, 0))
    live.listen(Evaluating(0, 12, 400))
    live.close()  # draws the last state
    assert "step 0: evaluating, 12 of 400 batches" in stream.getvalue()
    plain = Screen()
    plain.listen(TrainingStarted(20, 0))
    for batch in range(1, 401):
        plain.listen(Evaluating(0, batch, 400))
    assert capsys.readouterr().err.count("\n") == 1, "one line in so many seconds"


def test_work_shows_its_rate_below_the_bar() -> None:
    live = Screen()
    stream = terminal(live)
    live.listen(RowWritten(3, 9, 0, 600, 2.0))
    live._progress._live.refresh()  # type: ignore[union-attr]
    live.close()
    assert "3 of 9 headnotes · 300 tokens/s" in stream.getvalue()
