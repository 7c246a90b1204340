"""The screen: results to stdout, all else to stderr; plain lines where there is no terminal; JSON on demand."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from headnote_cli.errors import DoesNotFitError, ExitCode, Interrupted, SldsError, is_out_of_memory
from headnote_cli.events import Evaluated, Event, Note, Sampled, Saved, StepDone, TextWritten, TrainingStarted

PLAIN_LINE_SECONDS = 10.0  # between progress lines where there is no terminal
# C0 and C1 controls but newline and tab, and the marks that turn the direction of writing: none may reach a terminal.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text of a decision or a model without anything that a terminal would obey."""
    return _CONTROLS.sub("", text.replace("\r\n", "\n"))


class _Console(Console):
    """A console that says when its reader went away, instead of ending the process itself."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Screen:
    """Where a command shows what it did."""

    def __init__(self, json_mode: bool = False, quiet: bool = False, debug: bool = False) -> None:
        plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
        self.json_mode = json_mode
        self.quiet = quiet
        self.debug = debug
        # Of several processes only the first one speaks; an error of any is heard.
        self.muted = os.environ.get("RANK", "0") not in ("", "0")
        self.out = _Console(quiet=self.muted, **plain)
        self.err = _Console(stderr=True, quiet=self.muted, **plain)
        self._progress: TrainingProgress | None = None

    def note(self, text: str, warning: bool = False) -> None:
        """A line beside the result; a warning is shown even when quiet."""
        if warning:
            self.err.print(Text(f"! {printable(text)}", style="yellow"), soft_wrap=not self.err.is_terminal)
        elif not self.quiet:
            self.err.print(Text(printable(text), style="dim"), soft_wrap=not self.err.is_terminal)

    def table(self, renderable: RenderableType) -> None:
        """Something that belongs beside the result."""
        if not self.quiet and not self.json_mode:
            self.err.print(renderable)

    def show(self, renderable: RenderableType) -> None:
        """The result itself, for a person."""
        if self.json_mode:
            return
        for part in renderable.renderables if isinstance(renderable, Group) else [renderable]:
            # Words wrap in a terminal; in a pipe running text stays as it is.
            self.out.print(part, soft_wrap=isinstance(part, Text) and not self.out.is_terminal)

    def text(self, text: str) -> None:
        """Running text, the result itself: exactly as it is, wrapped by the terminal."""
        if not self.json_mode:
            self.out.print(Text(printable(text)), soft_wrap=True)

    def data(self, value: object) -> None:
        """The result itself, for a program: one object."""
        if self.json_mode:
            self.line(value)

    def line(self, value: object) -> None:
        """One JSON object on a line of stdout."""
        if self.muted:
            return
        sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()

    def error(self, error: SldsError) -> None:
        """What is wrong, where, and how to mend it."""
        self.err.quiet = False
        with contextlib.suppress(OSError):  # nobody is left to read it
            self._error(error)

    def _error(self, error: SldsError) -> None:
        if self.json_mode:
            kind = type(error).__name__
            self.line({"error": {"type": kind, "message": error.message, "where": error.where, "hint": error.hint}})
            return
        body = Text(printable(str(error)))
        if error.hint:
            body.append(f"\n→ {printable(error.hint)}", style="cyan")
        stopped = error.exit_code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED)
        title, style = ("stopped", "yellow") if stopped else ("error", "red")
        if self.err.is_terminal:
            self.err.print(Panel(body, title=title, title_align="left", border_style=style))
        else:
            self.err.print(Text(f"{title}: ") + body, soft_wrap=True)

    def listen(self, event: Event) -> None:
        """Draw what the engine tells."""
        match event:
            case Note(text, warning):
                self.note(text, warning)
            case TextWritten(text):
                self._stream(text)
            case TrainingStarted():
                self._progress = TrainingProgress(self, event)
            case _:
                if self._progress is not None:
                    self._progress.update(event)

    def listen_quietly(self, event: Event) -> None:
        """Draw all but the text itself, which goes into a file."""
        if not isinstance(event, TextWritten):
            self.listen(event)

    def close(self) -> None:
        """End any live display; the terminal is as it was."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @property
    def streams(self) -> bool:
        """Whether text is shown while it is being written."""
        return self.out.is_terminal and not self.json_mode

    def _stream(self, text: str) -> None:
        if self.streams:
            self.out.print(Text(printable(text)), end="", soft_wrap=True)


class TrainingProgress:
    """A live line in a terminal; a plain line every so often elsewhere."""

    def __init__(self, screen: Screen, started: TrainingStarted) -> None:
        self.screen = screen
        self._printed = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if screen.err.is_terminal and not screen.quiet:
            columns = (
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[facts]}"),
            )
            self._bar = Progress(*columns, console=screen.err, expand=True)
            self._task = self._bar.add_task("", total=started.total_steps, completed=started.first_step, facts="")
            self._bar.start()

    def update(self, event: Event) -> None:
        match event:
            case StepDone():
                self._step(event)
            case Evaluated(step, loss, perplexity):
                self.screen.note(f"step {step}: evaluation loss {loss:.4f}, perplexity {perplexity:,.2f}")
            case Saved(_, path):
                self.screen.note(f"saved {path}")
            case Sampled(step, name, headnote, reference):
                self.screen.note(f"step {step}, {name}, written: {headnote}")
                self.screen.note(f"step {step}, {name}, official: {reference}")

    def _step(self, event: StepDone) -> None:
        facts = step_facts(event)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=event.step, facts=facts)
        elif time.monotonic() - self._printed >= PLAIN_LINE_SECONDS or event.step == event.total_steps:
            self._printed = time.monotonic()
            self.screen.note(f"step {event.step}/{event.total_steps} · {facts}")

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def step_facts(event: StepDone) -> str:
    """A step in one line."""
    memory = f" · {size(event.peak_memory)}" if event.peak_memory else ""
    return (
        f"loss {event.loss:.4f} · lr {event.learning_rate:.1e} · grad {event.gradient_norm or 0:.2f} · "
        f"{event.tokens_per_second:,.0f} tok/s{memory} · {duration(event.seconds_left)} left"
    )


def duration(seconds: float) -> str:
    """`75` → `1:15`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: int) -> str:
    """Bytes in GiB or MiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


@contextmanager
def screen_for(json_mode: bool, quiet: bool, debug: bool) -> Iterator[Screen]:
    """A screen, and one clear message with the right exit code for whatever goes wrong."""
    if debug:
        os.environ["SLDS_DEBUG"] = "1"
    screen = Screen(json_mode, quiet, debug)
    try:
        yield screen
    except typer.Exit:
        raise
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the reader went away; nothing may be written at exit)
        raise typer.Exit(ExitCode.DONE) from None
    except KeyboardInterrupt:
        screen.close()
        screen.error(Interrupted("stopped at once; what was saved before stays"))
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except SldsError as error:
        screen.close()
        _trace(screen)
        screen.error(error)
        raise typer.Exit(error.exit_code) from None
    except Exception as error:
        screen.close()
        _trace(screen)
        told = _told(error)
        screen.error(told)
        raise typer.Exit(told.exit_code) from None
    finally:
        screen.close()


def _told(error: Exception) -> SldsError:
    """An unexpected failure in words: out of memory, or one to report."""
    if is_out_of_memory(error):
        hint = "see `slds check-memory` for what fits: a smaller batch or `max_length`, 4-bit, gradient checkpointing"
        return DoesNotFitError(f"out of memory: {error}", hint=hint)
    return SldsError(f"{type(error).__name__}: {error}", hint="run again with --debug for the traceback")


def _trace(screen: Screen) -> None:
    if screen.debug:
        traceback.print_exc()
