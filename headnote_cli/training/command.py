"""`slds train`: config → rows → a run folder with checkpoints and its record."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headnote_cli.config.keys import Settings
from headnote_cli.config.layers import Config
from headnote_cli.data.encoding import Encoder, encoder_for
from headnote_cli.data.prompts import PromptTemplates, copy_prompts
from headnote_cli.errors import ConfigError, Interrupted, UnreachableError, UsageError, is_out_of_memory
from headnote_cli.events import Event, Listener, ModelLoaded, Note, PlanResolved, RunDescribed, Saved
from headnote_cli.machine.plan import require_toolchain, resolve
from headnote_cli.machine.processes import require_all_processes, world_size
from headnote_cli.runs.curves import CURVES, draw_curves
from headnote_cli.runs.files import write_json
from headnote_cli.runs.folders import (
    PROMPTS,
    RECORD,
    Checkpoint,
    Run,
    locked,
    now,
    output_dir,
)
from headnote_cli.runs.resuming import breaks_a_resume
from headnote_cli.runs.timings import Laps
from headnote_cli.training.expected import expected_memory, out_of_memory
from headnote_cli.training.record import (
    Target,
    TrainingReport,
    facts_of,
    final_metrics,
    highest,
    loaded_facts,
    record_of_run,
    report_of,
    resolved_values,
)
from headnote_cli.training.resume import (
    is_finished,
    make_room,
    require_resumable,
    require_same_run,
    start_adapter,
    starting_point,
)
from headnote_cli.training.splits import Splits, prepared_splits

if TYPE_CHECKING:
    from headnote_cli.models.base import BaseModel
    from headnote_cli.training.job import TrainingJob


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The command-line options of a run.

    Attributes:
        resume: Continue from the newest complete checkpoint; if false, the old run is set aside.
        strict: Fail if this machine cannot do what the config asks for.
        samples: Number of evaluation rows to write headnotes for at each evaluation.
        force: Continue even if a change makes the resumed run a different one.
    """

    resume: bool = True
    strict: bool = False
    dry_run: bool = False
    allow_remote_code: bool = False
    skip_bad_rows: bool = False
    ignore_memory: bool = False
    samples: int = 0
    force: bool = False


def train(config: Config, emit: Listener, options: TrainOptions | None = None) -> TrainingReport:
    """Train a config from the start, or resume the run in its folder.

    Raises:
        DoesNotFitError: By the estimate, this machine's memory cannot hold a step.
        UsageError: `strict`, and the machine cannot do what is asked; a resumed run would be a different one; another
            process uses the run's folder; a launcher started fewer processes than requested.
        DataError: Rows cannot be trained on.
        Interrupted: A signal arrived; the run is saved.
    """
    options, laps = options or TrainOptions(), Laps()
    laps.lap("start")
    from headnote_cli.models.loading import main_process_first
    from headnote_cli.training.arguments import check_arguments

    laps.lap("imports")
    require_all_processes()
    folder = output_dir(config)
    target = _target(config, options, emit)
    plan = target.plan
    record = Run(folder).record() if options.resume else {}
    if record:
        same = require_same_run(config, plan, target.base, record, folder, options.force, emit)
        if same and not options.dry_run and is_finished(record, folder, emit):
            emit(Note("this run is finished; --no-resume sets it aside and starts again"))
            return report_of(folder, record, plan.rows)
    arguments = check_arguments(config.settings, plan, folder)
    if options.samples:
        _require_samples_possible(config.settings)
    expected = expected_memory(config, plan, target.machine, options.ignore_memory, emit)
    if config.settings.save_strategy == "no":
        emit(Note("`save_strategy: no`: nothing of what is learnt will be kept", warning=True))
    encoder = _encoder(config, target.base, emit)
    laps.lap("config")
    with main_process_first(plan) as is_main:
        splits = prepared_splits(config, encoder, plan, options.skip_bad_rows, emit)
    laps.lap("data")
    facts = facts_of(config, target, splits, expected)
    if options.dry_run:
        emit(RunDescribed(facts))
        return TrainingReport(folder, "dry run", 0, None, None, None, 0, 0.0, plan.rows)
    if record:
        require_resumable(config, record, splits, folder, options.force, emit)
    if is_main and not options.resume:
        make_room(folder, emit)
    with locked(folder) if is_main else nullcontext():
        with main_process_first(plan):
            start = starting_point(folder, emit) if is_main else Run(folder).newest_whole()
        kept = record_of_run(config, target, encoder, splits) | {
            "started": str(record["started"]) if start and record else now(),
            "estimated_memory": expected,
            "resolved": resolved_values(config.settings, plan, arguments),
        }
        peaks = (record.get("measured_memory") or {}) if start else {}
        run = LiveRun(config, target, encoder, splits, start, is_main, laps, emit, facts, kept, peaks)
        return run.train(options.samples)


def _target(config: Config, options: TrainOptions, emit: Listener) -> Target:
    """Resolve and report the base and the plan; nothing is loaded yet."""
    from headnote_cli.models.base import (
        base_model,
        load_model_config,
        longer_than_made_for,
        require_fitting_class,
        stored_quantization_of,
    )
    from headnote_cli.models.loading import this_machine

    base = base_model(config, options.allow_remote_code)
    model_type = load_model_config(base).model_type
    require_fitting_class(base, config.where("model_class"))
    stored = stored_quantization_of(base)
    if stored and not config.settings.use_peft:
        hint = "set `use_peft: true`, or name the model in 16 bits"
        raise ConfigError("quantized weights cannot be trained", base.name, hint)
    machine = this_machine()
    plan = resolve(config.settings, machine, model_type, options.allow_remote_code, stored)
    if options.strict:
        plan.require_unchanged()
    require_toolchain(plan, machine)
    emit(PlanResolved(plan))
    warnings = [f"{fault}: a stopped run cannot go on" for fault in breaks_a_resume(config.settings)]
    for warning in (longer_than_made_for(config, base), *warnings):
        if warning is not None:
            emit(Note(warning, warning=True))
    if len(machine.gpus) > 1 and world_size() == 1 and plan.device == "cuda":
        emit(Note(f"one of {len(machine.gpus)} GPUs trains; --num-processes {len(machine.gpus)} takes all of them"))
    return Target(base, model_type, stored is not None, machine, plan)


def _encoder(config: Config, base: BaseModel, emit: Listener) -> Encoder:
    """The encoder for the config's prompts and the base's tokenizer."""
    from headnote_cli.models.base import load_tokenizer

    templates = PromptTemplates(config.path_of("prompts_path"))
    encoder = encoder_for(config, templates, load_tokenizer(base, config))
    encoder.turn_end_id()
    for note in encoder.notes:
        emit(Note(note))
    return encoder


def _require_samples_possible(settings: Settings) -> None:
    """`--sample` needs evaluations, and a process that holds the whole model."""
    if settings.eval_strategy == "no":
        raise UsageError("--sample writes at each evaluation, and `eval_strategy` is `no`", hint="set `eval_strategy`")
    launched = any(os.environ.get(f"ACCELERATE_USE_{kind}") == "true" for kind in ("FSDP", "DEEPSPEED"))
    if launched or settings.fsdp or settings.deepspeed:
        raise UsageError(
            "--sample does not go with sharded weights: no process holds a model that could write",
            hint="leave --sample out; `slds generate` writes with a checkpoint",
        )


@dataclass
class LiveRun:
    """A run in progress: its trainer, and what its folder records."""

    config: Config
    target: Target
    encoder: Encoder
    splits: Splits
    start: Checkpoint | None
    is_main: bool
    laps: Laps
    emit: Listener
    facts: dict[str, str]
    record: dict[str, Any]
    peaks_before: dict[str, int]  # peaks of the run's earlier processes

    @property
    def folder(self) -> Path:
        return output_dir(self.config)

    def train(self, samples: int) -> TrainingReport:
        """Train to the end; the record says how the run ended."""
        from headnote_cli.training.job import train

        self.keep("running")
        if self.is_main:
            copy_prompts(self.encoder.templates.folder, self.folder / PROMPTS)
        try:
            result = train(self._job(samples), self.listen)
        except BaseException as error:
            state = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
            with suppress(OSError):  # a full disk must not hide the error
                self.keep(state, ended=now())
            if is_out_of_memory(error):
                raise out_of_memory(self.config, self.target.plan, self.folder, error) from error
            raise
        finally:
            self.draw()
        finished = self.keep("finished", ended=now(), **final_metrics(result, self.folder))
        return report_of(self.folder, finished, self.target.plan.rows)

    def _job(self, samples: int) -> TrainingJob:
        from headnote_cli.training.job import TrainingJob

        return TrainingJob(
            base=self.target.base,
            settings=self.config.settings,
            plan=self.target.plan,
            tokenizer=self.encoder.tokenizer,  # type: ignore[arg-type]
            train_rows=self.splits.train.dataset,
            eval_rows=self.splits.evaluation.dataset if self.splits.evaluation else None,
            output_dir=self.folder,
            turn_end=self.encoder.turn_end_id(),
            resume_from=self.start.path if self.start else None,
            start_adapter=start_adapter(self.config, self.folder),
            samples=samples,
            laps=self.laps,
        )

    def listen(self, event: Event) -> None:
        """Pass an event on; at a checkpoint, also update the record and the plot."""
        if isinstance(event, ModelLoaded):
            event = RunDescribed(self.facts | loaded_facts(event))
        if isinstance(event, Saved):
            self.keep("running")
            self.draw()
        self.emit(event)

    def keep(self, state: str, **more: Any) -> dict[str, Any]:
        """Write the record."""
        from headnote_cli.training.job import measured_memory

        peaks = highest(self.peaks_before, measured_memory(self.target.plan.device))
        kept = self.record | {"state": state, "timings": self.laps.seconds, "measured_memory": peaks} | more
        if self.is_main:
            write_json(self.folder / RECORD, kept)
        return kept

    def draw(self) -> None:
        """Plot the run so far; a failure does not end the run."""
        if self.is_main:
            with suppress(OSError):
                draw_curves(Run(self.folder).metrics(), self.folder / CURVES)


def push_checkpoint(report: TrainingReport, name: str, emit: Listener) -> None:
    """Upload a run's best checkpoint by evaluation loss, else its last one, as the private model `name`.

    Raises:
        UnreachableError: There is no checkpoint, or the hub rejects it.
    """
    from headnote_cli.models.hub import push

    best = Run(report.run).best_whole()
    folder = best.path if best else report.checkpoint
    if folder is None:
        raise UnreachableError("the run kept no checkpoint to upload", str(report.run), "set `save_strategy`")
    emit(Note(f"uploaded {folder.name} to {push(folder, name)}"))
