"""Shared by all commands: options by type, and how a command runs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from enum import Enum
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperGroup

from headnote_cli.cli.completion import config_keys
from headnote_cli.errors import ExitCode, UsageError
from headnote_cli.screen.console import Screen, screen_for

SHARED = ("config", "set_", "json_mode", "quiet", "debug")  # parameters that all commands have
METAVARS = {Path: "FILE", str: "TEXT", int: "N", float: "NUMBER", bool: ""}

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file. Default: $SLDS_CONFIG, else the shipped sft_liger_peft.yaml."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", autocompletion=config_keys, help="Override one config key; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout and nothing else there.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Results and warnings only.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Tracebacks, and what the libraries say.")]
RemoteCodeOption = Annotated[bool, typer.Option("--allow-remote-code", help="Honour `trust_remote_code: true`.")]
PushOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Upload the result to the hub afterwards, as a private model.")
]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows with faults, and count them.")]


def with_screen(**groups: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options --json, --quiet and --debug to a command, and call it with a screen made from them.

    Typer reads options from a signature, so the signature that it sees has these three in place of the screen.

    Args:
        groups: Help panel titles, with `_` for spaces, and the parameters in each, in this order; shared ones come
            last.
    """

    def decorated(face: Callable[..., None]) -> Callable[..., None]:
        @wraps(face)
        def command(*, json_mode: bool, quiet: bool, debug: bool, **options: Any) -> None:
            with screen_for(json_mode, quiet, debug) as screen:
                face(screen, **options)

        own = list(inspect.signature(face, eval_str=True).parameters.values())[1:]
        flags = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
            for name, option in {"json_mode": JsonOption, "quiet": QuietOption, "debug": DebugOption}.items()
        ]
        titles = {name: title.replace("_", " ") for title, names in groups.items() for name in names.split()}
        titles |= dict.fromkeys(SHARED, "Shared")
        places = list(titles)
        parameters = [_shown(parameter, titles.get(parameter.name)) for parameter in (*own, *flags)]
        parameters.sort(key=lambda shown: places.index(shown.name) if shown.name in places else -1)
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorated


def _shown(parameter: inspect.Parameter, title: str | None) -> inspect.Parameter:
    """A parameter in a help panel, with a metavar for its type."""
    kind, info = parameter.annotation.__origin__, copy(parameter.annotation.__metadata__[0])
    info.rich_help_panel = title
    info.metavar = info.metavar if info.metavar is not None else _metavar(kind)
    return parameter.replace(annotation=Annotated[kind, info], kind=inspect.Parameter.KEYWORD_ONLY)


def _metavar(kind: Any) -> str:
    """`FILE` for a path, `[de|fr|it]` for choices, nothing for a switch; for a list, that of its values."""
    if get_origin(kind) is Literal:
        return f"[{'|'.join(get_args(kind))}]"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"[{'|'.join(str(choice.value) for choice in kind)}]"
    inner = [argument for argument in get_args(kind) if argument is not type(None)]
    return _metavar(inner[0]) if inner else METAVARS[kind]


class Commands(TyperGroup):
    """Reports Typer's errors like all others: same style, with a hint, as an object with `--json`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        self._arguments = list(args)
        with self._reported():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with self._reported():
            return super().invoke(ctx)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except typer.TyperException as refused:
            context = getattr(refused, "ctx", None)
            if not hasattr(refused, "format_message"):
                raise
            Screen(json_mode="--json" in self._arguments).error(as_error(refused, context, self._arguments))
            raise typer.Exit(getattr(refused, "exit_code", ExitCode.USAGE)) from None


def as_error(refused: Any, context: Any, arguments: Sequence[str]) -> UsageError:
    """Typer's error in our words, with what to write instead.

    Two habits from the workshop's scripts get a hint: a config without --config, and a key as an option.
    """
    from headnote_cli.config.keys import kinds

    message = refused.format_message().rstrip(".")
    command = context.command_path if context else "slds"
    hint = f"{command} --help"
    if name := getattr(refused, "option_name", None):
        key = name.lstrip("-").replace("-", "_")
        given = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")]
        given += [value for option, value in pairwise(arguments) if option == name]
        value = given[0] if given else "VALUE"
        if kinds(key):
            hint = f"{command} --set {key}={value}"
    elif match := re.search(r"\((\S+\.ya?ml)\)", message):
        hint = f"{command} --config {match[1]}"
    return UsageError(message[:1].lower() + message[1:], hint=hint)
