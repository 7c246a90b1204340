"""`slds demo`."""

from __future__ import annotations

from headnote_cli.cli.session import DebugOption, JsonOption, QuietOption
from headnote_cli.screen.console import screen_for


def demo(json_mode: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False) -> None:
    """Go from data to a headnote with a small model on a CPU, in the working directory."""
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.demo.command import demo as run
        from headnote_cli.screen.demo import demo_view

        report = run(screen.listen, shows_output=not (json_mode or quiet))
        screen.show(demo_view(report))
        screen.data(report.to_json())
