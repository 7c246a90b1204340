"""`slds demo`."""

from __future__ import annotations

from headnote_cli.cli.session import with_screen
from headnote_cli.screen.console import Screen


@with_screen()
def demo(screen: Screen) -> None:
    """Go from data to a headnote with a small model on a CPU, in the working directory."""
    from headnote_cli.demo.command import demo as run
    from headnote_cli.screen.demo import after_demo, demo_view

    report = run(screen.listen, shows_output=not (screen.json_mode or screen.quiet))
    screen.show(demo_view(report), *after_demo(report))
    screen.data(report.to_json())
