"""The screen: results on stdout, everything else on stderr; plain lines without a terminal; JSON on request."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headnote_cli.errors import ExitCode, Interrupted, SldsError, in_words
from headnote_cli.events import (
    Evaluated,
    Evaluating,
    Event,
    Note,
    RowWritten,
    RunDescribed,
    Sampled,
    Saved,
    StepDone,
    TextWritten,
    TrainingStarted,
    WeightsWritten,
)
from headnote_cli.machine import libraries
from headnote_cli.machine.processes import is_to_show, rank

PLAIN_LINE_SECONDS = 10.0  # between progress lines without a terminal
SMOOTHING = 0.9  # weight of the past in the smoothed loss, an exponential moving average
# C0 and C1 controls except newline and tab, and bidirectional marks: none may reach a terminal.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text without terminal control characters; bytes of a file name that are not text are escaped."""
    return encoded(_CONTROLS.sub("", text.replace("\r\n", "\n"))).decode()


def encoded(text: str) -> bytes:
    """Text as UTF-8; bytes of a file name that are not text become escapes, which are valid JSON, too."""
    return text.encode(errors="backslashreplace")


class _Console(Console):
    """A console that raises an error when its reader has gone, instead of ending the process itself."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Screen:
    """The output of a command."""

    def __init__(self, json_mode: bool = False, quiet: bool = False) -> None:
        plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
        self.json_mode = json_mode
        self.quiet = quiet
        # Of several processes, only the first writes; errors of any are shown once.
        self.muted = rank() > 0
        self.out = _Console(quiet=self.muted, **plain)
        self.err = _Console(stderr=True, quiet=self.muted, **plain)
        self._progress: Progress | None = None
        libraries.tell = partial(self.note, warning=True)

    def note(self, *lines: str, warning: bool = False, style: str = "dim") -> None:
        """Show lines beside the result; warnings are shown even when quiet."""
        if self.quiet and not warning:
            return
        mark, style = ("! ", "yellow") if warning else ("", style)
        for line in lines:
            self.err.print(Text(mark + printable(line), style=style), soft_wrap=not self.err.is_terminal)

    def table(self, renderable: RenderableType) -> None:
        """Show something beside the result."""
        if not self.quiet and not self.json_mode:
            self.err.print(renderable)

    def show(self, renderable: RenderableType, *following: str) -> None:
        """Show the result to a person, and end any progress display.

        Args:
            following: Commands to type next, each on its own unwrapped line.
        """
        self.close()
        if self.json_mode:
            return
        for part in renderable.renderables if isinstance(renderable, Group) else [renderable]:
            # Text wraps in a terminal; in a pipe it stays as it is.
            self.out.print(part, soft_wrap=isinstance(part, Text) and not self.out.is_terminal)
        if following:
            self.text("\n".join(["", "next:", *following]))

    def text(self, text: str) -> None:
        """Show text that is the result itself: unchanged, wrapped by the terminal."""
        if not self.json_mode:
            self.out.print(Text(printable(text)), soft_wrap=True)

    def exact(self, texts: Sequence[str]) -> None:
        """Write the result texts: exact bytes, separated by NUL, to a file or pipe; printable text to a terminal."""
        if sys.stdout.isatty():
            self.text("\n".join(texts))
        elif not self.json_mode and not self.muted:
            self._write("\0".join(texts))

    def data(self, value: object) -> None:
        """Write the result for a program, as one JSON object."""
        if self.json_mode:
            self.line(value)

    def line(self, value: object) -> None:
        """Write one JSON object as a line of stdout."""
        if self.muted:
            return
        self._write(json.dumps(value, ensure_ascii=False, default=str) + "\n")

    def _write(self, text: str) -> None:
        """Write UTF-8 for a program, whatever the console's encoding."""
        sys.stdout.flush()
        sys.stdout.buffer.write(encoded(text))
        sys.stdout.buffer.flush()

    def error(self, error: SldsError) -> None:
        """Show what is wrong, where, and how to fix it."""
        if not is_to_show(error):
            return
        self.muted = self.err.quiet = False
        with contextlib.suppress(OSError):  # the reader may be gone
            self._error(error)

    def _error(self, error: SldsError) -> None:
        if self.json_mode:
            self.line({"error": error.to_json()})
            return
        body = Text(printable(str(error)))
        if error.hint:
            body.append(f"\n→ {printable(error.hint)}", style="cyan")
        stopped = error.exit_code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED)
        title, style = ("stopped", "yellow") if stopped else ("error", "red")
        self.err.print(Text.assemble((f"{title}: ", f"bold {style}"), body), soft_wrap=True)

    def listen(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Note(text, warning):
                self.note(text, warning=warning)
            case TextWritten(text):
                self._stream(text)
            case WeightsWritten() | RowWritten():
                self._working(event)
            case RunDescribed(facts):
                self._describe(facts)
            case TrainingStarted(total, first):
                self._progress = Progress(self, _steps(first, total))
            case _:
                if self._progress is not None:
                    self._progress.update(event)

    def _working(self, event: WeightsWritten | RowWritten) -> None:
        done, total, facts = progress_of(event)
        if self._progress is None:
            self._progress = Progress(self)
        self._progress.draw(_bar(done, total), facts, at_once=done >= total)
        if done >= total:
            self.close()

    def _describe(self, facts: dict[str, str]) -> None:
        """Show what is about to be trained: a panel in a terminal, else plain lines."""
        if self.quiet:
            return
        if self.err.is_terminal:
            # Only the main lines; indented lines are for logs.
            shown = {name: re.sub(r"\n .*", "", value) for name, value in facts.items()}
            self.err.print(Panel(facts_table(shown), title="training", title_align="left", border_style="dim"))
            return
        self.note(*(f"{name}: {value}" for name, value in facts.items()))

    def close(self) -> None:
        """End any live display and restore the terminal."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @property
    def streams(self) -> bool:
        """Whether text is shown while it is being generated."""
        return self.out.is_terminal and not self.json_mode

    def _stream(self, text: str) -> None:
        if self.streams:
            self.out.print(Text(printable(text)), end="", soft_wrap=True)


class Progress:
    """A bar with the latest facts in a terminal, else a plain line from time to time.

    The bar of a training stays on the screen; other bars are removed at the end.
    """

    def __init__(self, screen: Screen, training: Table | None = None) -> None:
        self.screen = screen
        self._printed = 0.0 if training else time.monotonic()
        self._smoothed: float | None = None
        self._live: Live | None = None
        if screen.err.is_terminal and not screen.quiet:
            self._live = Live(training, console=screen.err, transient=training is None)
            self._live.start()

    def update(self, event: Event) -> None:
        """Show an event of a training."""
        match event:
            case StepDone():
                self._step(event)
            case Evaluating(step, done, total, what):
                doing = "evaluating" if what == "batches" else "writing"
                self.draw(_bar(done, total), f"step {step}: {doing}, {done} of {total} {what}")
            case Evaluated(step, loss, perplexity):
                self.screen.note(f"step {step}: evaluation loss {loss:.4f}, perplexity {perplexity:,.2f}", style="cyan")
            case Saved(_, path):
                self.screen.note(f"saved {path}", style="green")
            case Sampled(step, name, headnote, reference):
                self.screen.note(f"step {step}, {name}, written: {headnote}", style="")
                self.screen.note(f"step {step}, {name}, official: {reference}", style="")

    def _step(self, event: StepDone) -> None:
        last = event.loss if self._smoothed is None else self._smoothed
        self._smoothed = SMOOTHING * last + (1 - SMOOTHING) * event.loss
        facts = step_facts(event, self._smoothed)
        plain = f"step {event.step}/{event.total_steps} · {facts} · {duration(event.seconds_left)} left"
        bar = _steps(event.step, event.total_steps, event.seconds_left)
        self.draw(bar, facts, plain, at_once=event.step == event.total_steps)

    def draw(self, bar: Table, facts: str, plain: str | None = None, at_once: bool = False) -> None:
        """The bar above the facts, or a plain line in place of both."""
        if self._live is not None:
            self._live.update(Group(bar, Text(facts)))
        elif at_once or time.monotonic() - self._printed >= PLAIN_LINE_SECONDS:
            self._printed = time.monotonic()
            self.screen.note(plain or facts)

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()


def progress_of(event: WeightsWritten | RowWritten) -> tuple[int, int, str]:
    """The amount done, the total, and a line with both, the rate and the time left."""
    seconds = max(event.seconds, 1e-9)
    if isinstance(event, RowWritten):
        done, total, new = event.rows, event.total_rows, event.rows - event.before
        facts = f"{done:,} of {total:,} headnotes · {event.tokens / seconds:,.0f} tokens/s"
    else:
        done, total, new = event.bytes, event.total_bytes, event.bytes
        tensors = f"{event.tensors}/{event.total_tensors} tensors merged"
        facts = f"{size(done)} of {size(total)} · {tensors} · {size(int(done / seconds))}/s"
    return done, total, f"{facts} · {duration((total - done) * event.seconds / max(new, 1))} left"


def _steps(step: int, total: int, seconds_left: float | None = None) -> Table:
    left = "" if seconds_left is None else f"{duration(seconds_left)} left"
    return _bar(step, total, f"step {step}/{total}", left)


def _bar(done: int, total: int, before: str = "", behind: str = "") -> Table:
    """A bar on its own line: rich's own has no newline at its end, and what follows would be cut off."""
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True)
    row.add_row(before, ProgressBar(total=max(total, 1), completed=done), behind)
    return row


def step_facts(event: StepDone, smoothed: float) -> str:
    """One line about a step."""
    memory = f" · peak {size(event.peak_memory)}" if event.peak_memory else ""
    return (
        f"loss {event.loss:.4f} (smoothed {smoothed:.4f}) · lr {event.learning_rate:.1e} · "
        f"grad {event.gradient_norm or 0:.2f} · {event.tokens_per_second:,.0f} tok/s{memory}"
    )


def facts_table(facts: Mapping[str, str | Text]) -> Table:
    """A row for each fact: name and value."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        text = value if isinstance(value, Text) else Text(value)
        table.add_row(name, Text(printable(text.plain), text.style))
    return table


def duration(seconds: float) -> str:
    """`75` → `1:15`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: int) -> str:
    """Bytes in GiB, MiB or KiB."""
    if count < 2**20:
        return f"{count / 2**10:,.0f} KiB"
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


@contextmanager
def screen_for(json_mode: bool, quiet: bool, debug: bool) -> Iterator[Screen]:
    """A screen; every failure becomes one clear message and the right exit code."""
    if debug:
        os.environ["SLDS_DEBUG"] = "1"
    screen = Screen(json_mode, quiet)
    try:
        yield screen
    except typer.Exit:
        raise
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the reader is gone; nothing may be written at exit)
        raise typer.Exit(ExitCode.DONE) from None
    except KeyboardInterrupt:
        screen.close()
        screen.error(Interrupted("stopped at once; what was saved before stays"))
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except Exception as error:
        screen.close()
        if debug:
            traceback.print_exc()
        reported = in_words(error)
        screen.error(reported)
        raise typer.Exit(reported.exit_code) from None
    finally:
        screen.close()


def number(value: float | None) -> str:
    """A loss with four decimals."""
    return "–" if value is None else f"{value:.4f}"
