"""What the faces share: options by their types, and how a command runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headnote_cli.errors import UsageError
from headnote_cli.screen.console import Screen, screen_for

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="YAML file. Default: $SLDS_CONFIG, else configs/ipst/slds/sft_liger_peft.yaml."
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one config key; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout and nothing else there.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Results and warnings only.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Tracebacks, and what the libraries say.")]
RemoteCodeOption = Annotated[bool, typer.Option("--allow-remote-code", help="Honour `trust_remote_code: true`.")]
PushOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Upload the result to the hub afterwards, as a private model.")
]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows with faults, and count them.")]


def with_screen(face: Callable[..., None]) -> Callable[..., None]:
    """A face with the options --json, --quiet and --debug, called with the screen that they describe.

    Typer reads options from a signature, so the one that it sees has these three in place of the screen.
    """

    @wraps(face)
    def command(*, json_mode: bool, quiet: bool, debug: bool, **options: Any) -> None:
        with screen_for(json_mode, quiet, debug) as screen:
            face(screen, **options)

    own = list(inspect.signature(face, eval_str=True).parameters.values())[1:]
    shared = {"json_mode": JsonOption, "quiet": QuietOption, "debug": DebugOption}
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in shared.items()
    ]
    command.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
    command.__annotations__ = face.__annotations__ | shared
    return command


class Commands(TyperGroup):
    """With `--json`, an option that Typer refuses is an error object, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        self._prints_json = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if not self._prints_json:
                raise
            Screen(json_mode=True).error(UsageError(error.format_message()))
            raise typer.Exit(error.exit_code) from None
