"""How several devices share a step, as a config or launcher says.

`ddp` copies everything to each device; `states` (ZeRO-1) divides the optimizer states, `gradients` (ZeRO-2, FSDP's
shard_grad_op) also the gradients, `full` (ZeRO-3, FSDP's full_shard) also the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headnote_cli.config.keys import Settings
from headnote_cli.errors import ConfigError
from headnote_cli.runs.files import read_json

# What each kind of sharding divides among the devices.
DIVIDED: dict[str, tuple[str, ...]] = {
    "none": (),
    "ddp": (),
    "states": ("optimizer states",),
    "gradients": ("optimizer states", "gradients"),
    "full": ("optimizer states", "gradients", "weights", "adapters"),
}
ZERO = ("ddp", "states", "gradients", "full")  # by DeepSpeed's stage
# FSDP's strategies; FSDP 2 uses `reshard_after_forward` for the first two. hybrid_shard divides within a node.
FSDP = {
    "full_shard": "full", "hybrid_shard": "full", "true": "full",
    "shard_grad_op": "gradients", "hybrid_shard_zero2": "gradients", "false": "gradients",
    "no_shard": "ddp",
}  # fmt: skip


def sharding_of(settings: Settings) -> str:
    """How a config's `fsdp` or `deepspeed` shares a step among devices.

    Raises:
        ConfigError: Offloading to main memory is not estimated, or the stage or strategy does not exist.
    """
    if settings.deepspeed:
        return _zero(_options(settings.deepspeed, "deepspeed"))
    if settings.fsdp:
        return _fsdp(settings.fsdp, _options(settings.fsdp_config or {}, "fsdp_config"))
    return "ddp"


def launched(environment: Mapping[str, str]) -> tuple[int, str | None]:
    """The number of devices that train together, and the launcher's sharding; None: the config's.

    `accelerate launch` sets these variables (accelerate/utils/launch.py), `torchrun` only the first.

    Raises:
        ConfigError: As `sharding_of`.
    """
    world = environment.get("WORLD_SIZE", "")
    devices = int(world) if world.isdigit() else 1
    sharding = None
    if environment.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        newer = environment.get("FSDP_VERSION", "1") == "2"
        strategy = environment.get("FSDP_RESHARD_AFTER_FORWARD" if newer else "FSDP_SHARDING_STRATEGY", "full_shard")
        numbered = {"1": "full_shard", "2": "shard_grad_op", "3": "no_shard", "4": "hybrid_shard"}
        _refuse_offload(environment.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true", "the launcher's FSDP")
        sharding = _strategy(numbered.get(strategy, strategy))
    elif environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
        names = [f"ACCELERATE_DEEPSPEED_OFFLOAD_{part}_DEVICE" for part in ("OPTIMIZER", "PARAM")]
        offloads = any(environment.get(name, "none").lower() != "none" for name in names)
        _refuse_offload(offloads, "the launcher's DeepSpeed")
        stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        by_stage = {"zero_optimization": {"stage": int(stage) if stage.isdigit() else stage}}
        sharding = _zero(_options(by_stage if file == "none" else file, "the launcher's DeepSpeed"))
    return devices, sharding if devices > 1 else None


def _fsdp(value: str, options: Mapping[str, Any]) -> str:
    words = value.lower().split()
    plain = {key.removeprefix("fsdp_"): option for key, option in options.items()}
    _refuse_offload("offload" in words or plain.get("cpu_offload") is True, "`fsdp`")
    named = next((word for word in words if word not in ("auto_wrap", "offload", "true")), None)
    return _strategy(named or str(plain.get("reshard_after_forward", True)).lower())


def _strategy(name: str) -> str:
    if name.lower() not in FSDP:
        raise ConfigError(f"`fsdp`: no strategy is called {name}", hint=f"write one of {', '.join(FSDP)}")
    return FSDP[name.lower()]


def _zero(config: Mapping[str, Any]) -> str:
    zero = config.get("zero_optimization")
    zero = zero if isinstance(zero, Mapping) else {}
    offloads = [zero.get(f"offload_{part}") for part in ("optimizer", "param")]
    offloaded = any(isinstance(part, Mapping) and part.get("device", "cpu") != "none" for part in offloads)
    _refuse_offload(offloaded, "`deepspeed`")
    stage = zero.get("stage", 0)
    if not isinstance(stage, int) or not 0 <= stage < len(ZERO):
        raise ConfigError(f"`deepspeed`: no ZeRO stage {stage}", hint="write 0, 1, 2 or 3")
    return ZERO[stage]


def _options(given: str | Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Options given in the config, or in a file that it names."""
    options = given if isinstance(given, Mapping) else read_json(Path(given))
    if options is None:
        raise ConfigError(f"`{key}`: there is no {given}")
    return options


def _refuse_offload(asked: bool, key: str) -> None:
    if asked:
        raise ConfigError(
            f"{key} offloads to main memory, and what then stays on a GPU is not estimated",
            hint="leave the offload out to see what the GPUs would need",
        )
