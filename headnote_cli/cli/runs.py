"""`slds runs`: list the runs under a folder, or compare two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headnote_cli.cli.session import with_screen
from headnote_cli.screen.console import Screen


class _ListByDefault(TyperGroup):
    """Makes `slds runs FOLDER` mean `slds runs list FOLDER`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["list", *args])


runs_app = typer.Typer(cls=_ListByDefault, subcommand_metavar="FOLDER | diff A B")


@runs_app.callback()
def runs() -> None:
    """List the runs under a folder, or compare the configs of two."""


@runs_app.command("diff", epilog="Example: slds runs diff trainer_output/a trainer_output/b")
@with_screen()
def runs_diff(
    screen: Screen,
    first: Annotated[Path, typer.Argument(help="A run folder.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Show the config keys in which two runs differ."""
    from headnote_cli.runs.listing import difference
    from headnote_cli.screen.runs import difference_view

    changed = difference(first, second)
    screen.show(difference_view(changed))
    screen.data({"differences": changed})


@runs_app.command("list", epilog="Example: slds runs trainer_output")
@with_screen()
def runs_list(
    screen: Screen,
    folder: Annotated[Path, typer.Argument(help="Where to look for runs.")] = Path("trainer_output"),
) -> None:
    """List the runs under a folder, newest first: `slds runs FOLDER`."""
    from headnote_cli.runs.listing import list_runs
    from headnote_cli.screen.runs import runs_view

    listed = list_runs(folder)
    screen.show(runs_view(listed))
    screen.data({"runs": listed})
