"""What the faces share: options by their types, and how a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
