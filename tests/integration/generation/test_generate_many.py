"""Whole splits: resumed, shared out, failing row by row, written here or by a server."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from headnote_cli.config.layers import load_config
from headnote_cli.generation import choice as generate
from headnote_cli.generation import many as generate_many
from headnote_cli.generation.sampling import Headnote, Prompt, Sampling
from headnote_cli.runs.folders import writing
from tests.commands import slds, slds_json
from tests.conftest import build_text_model, sample_rows, save_lines
from tests.faults import FAULTS, Disk, Killed
from tests.integration.servers import Chat, completion, running

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model(gemma_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_text_model(gemma_tokenizer, tmp_path_factory.mktemp("many") / "model")


@pytest.fixture
def config(model: Path, write_config: Callable[..., Path]) -> Callable[..., Path]:
    def write(**keys: Any) -> Path:
        own = {"model_name_or_path": str(model), "model_class": "AutoModelForCausalLM", "max_length": 768}
        splits = {"dataset_test_split": "test", "dataset_eval_split": "validation"}
        return write_config(**(own | splits | keys))

    return write


def command(config: Path, model: Path, output: Path, *more: object) -> list[str]:
    options = ["--config", config, "--split", "test", "--model", model, "--max-new-tokens", 12, "--output", output]
    return ["generate", *map(str, options), *map(str, more)]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_split_is_written_in_its_order_and_as_one_by_one(
    config: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    report = slds_json(*command(config(), model, output))
    assert report["headnotes"] == len(sample_rows("test"))
    assert report["failed"] == report["before"] == 0
    rows = lines(output)
    assert [row["sample_id"] for row in rows] == [row["sample_id"] for row in sample_rows("test")]
    assert [row["lang"] for row in rows] == [row["headnote_language"] for row in sample_rows("test")]
    assert not output.with_name("out.jsonl.part").exists()
    first = sample_rows("test")[0]
    decision = tmp_path / "first.txt"
    decision.write_text(first["decision"], encoding="utf-8")
    alone = slds_json(
        "generate", "--decision", decision, "--lang", first["headnote_language"], "--from", first["decision_language"],
        "--model", model, "--config", config(), "--max-new-tokens", 12,
    )  # fmt: skip
    assert alone["headnote"] == rows[0]["headnote"]
    assert alone["tokens"] == rows[0]["tokens"]


def test_a_seed_draws_the_same_onto_the_screen_and_into_a_file(
    config: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "decisions"
    folder.mkdir()
    for place, row in enumerate(sample_rows("test")[:2]):
        (folder / f"{place}.txt").write_text(row["decision"], encoding="utf-8")
    asked = (
        "generate", "--decision", folder, "--lang", "de", "--lang", "fr", "--model", model, "--config", config(),
        "--max-new-tokens", 8, "--temperature", 1.2, "--top-p", 0.9, "--seed", 5, "--num-candidates", 2,
    )  # fmt: skip
    shown = slds(*map(str, asked), "--json")
    assert shown.exit_code == 0, shown.stderr
    here = [json.loads(line) for line in shown.stdout.splitlines()]
    output = tmp_path / "out.jsonl"
    slds_json(*map(str, asked), "--output", str(output))
    there = lines(output)
    names = ("sample_id", "lang", "candidate", "headnote")
    assert [[row[name] for name in names] for row in here] == [[row[name] for name in names] for row in there]
    assert len({row["headnote"] for row in here}) >= 4, "two decisions, two candidates"


def test_headnotes_to_look_at_are_counted(config: Callable[..., Path], model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    arguments = command(config(max_length=512), model, output)
    result = slds(*arguments)
    assert result.exit_code == 0, result.stderr
    rows = lines(output)
    unfinished = sum(row["finish_reason"] == "length" for row in rows)
    assert unfinished > 0, "the tiny model never ends by itself"
    assert f"{unfinished}; the token limit cut them off: raise --max-new-tokens" in result.stdout
    assert f"{len(rows)}; longer than `max_length`" in result.stdout
    report = slds_json(*arguments)
    assert report["unfinished"] == unfinished
    assert report["cut"] == sum(row["tokens"]["cut"] > 0 for row in rows) == len(rows)
    others = [row for row in rows if row["language"]["detected"] not in (None, row["language"]["expected"])]
    assert report["other_language"] == len(others)


def test_a_finished_file_is_not_written_again_and_other_settings_are_refused(
    config: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    slds_json(*command(config(), model, output))
    before = output.read_bytes()
    again = slds_json(*command(config(), model, output))
    assert again["before"] == again["headnotes"] == len(sample_rows("test"))
    assert output.read_bytes() == before
    refused = slds(*command(config(), model, output, "--repetition-penalty", 1.2))
    assert refused.exit_code == 2
    assert "repetition_penalty 1.0 → 1.2" in refused.stderr
    assert output.read_bytes() == before
    assert slds(*command(config(), model, output, "--repetition-penalty", 1.2, "--force")).exit_code == 0
    assert output.read_bytes() != before
    assert len(list(tmp_path.glob("out.jsonl.old-*"))) == 1


def test_force_sets_all_files_of_an_output_aside_together(
    config: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    names = [output.name, f"{output.name}.part", f"{output.name}.settings.json"]
    slds_json(*command(config(), model, output, "--limit", 1))
    (tmp_path / names[1]).write_bytes(output.read_bytes())
    before = {name: (tmp_path / name).read_bytes() for name in names}
    slds_json(*command(config(), model, output, "--limit", 1, "--repetition-penalty", 1.2, "--force"))
    for name in names:
        (old,) = tmp_path.glob(f"{name}.old-*")
        assert old.read_bytes() == before[name]
    assert sorted(file.name for file in tmp_path.glob("out*") if ".old-" not in file.name) == [names[0], names[2]]


def test_a_candidate_that_is_null_is_the_first(config: Callable[..., Path], model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    slds_json(*command(config(), model, output))
    rows = [{"candidate": None, **row} for row in lines(output)]
    part = save_lines(tmp_path / "out.jsonl.part", rows)
    output.unlink()
    assert slds_json(*command(config(), model, output))["before"] == len(rows)
    save_lines(part, [rows[0] | {"candidate": "first"}])
    refused = slds(*command(config(), model, output))
    assert refused.exit_code == 5, refused.stderr
    assert "out.jsonl.part: a `candidate` is not a whole number" in refused.stderr


def test_a_server_may_answer_at_another_address_when_the_run_goes_on(
    config: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    noted = tmp_path / "out.jsonl.settings.json"

    def asked(address: str, name: object = "m") -> list[str]:
        return command(config(), model, output, "--endpoint", address, "--served-model", name)

    with running(Fine) as first, running(Fine) as second:
        slds_json(*asked(first), "--limit", "2")
        assert slds_json(*asked(second))["before"] == 2
        older = json.loads(noted.read_text())
        assert older.pop("served_model") == "m"
        noted.write_text(json.dumps(older | {"server": {"address": first, "model": "m"}}))
        assert slds_json(*asked(second))["before"] == len(sample_rows("test"))
        refused = slds(*asked(second, "other"))
    assert refused.exit_code == 2
    assert "served_model m → other" in refused.stderr


def test_parts_of_several_machines_make_the_whole(config: Callable[..., Path], model: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    slds_json(*command(config(), model, whole))
    for number in (1, 2):
        slds_json(*command(config(), model, tmp_path / "part.jsonl", "--shard", f"{number}/2"))
    parts = [lines(tmp_path / f"part.{number}-of-2.jsonl") for number in (1, 2)]
    assert sorted(row["headnote"] for part in parts for row in part) == sorted(r["headnote"] for r in lines(whole))
    assert lines(whole)[::2] == parts[0]
    assert slds(*command(config(), model, whole, "--shard", "3/2")).exit_code == 2


def test_a_launchers_processes_write_a_part_each(
    config: Callable[..., Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    for rank in "01":
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(name, rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert slds(*command(config(), model, output)).exit_code == 0
    parts = [lines(tmp_path / f"out.{number}-of-2.jsonl") for number in (1, 2)]
    names = [row["sample_id"] for row in sample_rows("test")]
    assert [[row["sample_id"] for row in part] for part in parts] == [names[::2], names[1::2]]


def test_each_of_a_launchers_processes_writes_on_its_own_gpu(
    config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from headnote_cli.config.layers import load_config
    from headnote_cli.generation import writer as generation
    from headnote_cli.machine.detect import Gpu, Machine
    from headnote_cli.machine.plan import Quantization, resolve

    loads: list[tuple[Any, ...]] = []
    model = MagicMock()
    model.generation_config.eos_token_id = 1
    monkeypatch.setattr(generation, "load_model", lambda *given: loads.append(given) or model)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    settings = load_config(config()).settings.model_copy(update={"use_cpu": False})
    machine = Machine((Gpu("card", (8, 0), 24 * 2**30),), frozenset(), "g++", 2, 2**34)
    plan = resolve(settings, machine, "llama")
    in_four_bits = Quantization("nf4", nested=True, dtype="bfloat16")
    for rank, index in (("2", 2), ("5", 1)):  # more processes than GPUs share them
        monkeypatch.setenv("LOCAL_RANK", rank)
        for quantization in (None, in_four_bits):
            generation.load_to_write(MagicMock(), None, plan, quantization)
            _, _, device, _, how = loads[-1]
            assert device == torch.device("cuda", index)
            assert (how is None) == (quantization is None)


def test_a_row_without_its_languages_is_a_fault_as_in_training(
    config: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    user = "Headnote in {{ headnote_language }} for the {{ decision_language }} decision:\n{{ decision }}"
    (prompts / "user.jinja").write_text(user, encoding="utf-8")
    (prompts / "assistant.jinja").write_text("{{ headnote }}", encoding="utf-8")
    rows = [row | {"decision": row["decision"][:300]} for row in sample_rows("test")[:3]]
    rows[0]["headnote_language"], rows[1]["decision_language"] = "0", None
    data = save_lines(tmp_path / "rows.jsonl", rows)
    given = ["--config", config(prompts_path=str(prompts)), "--decision", data, "--model", model]
    result = slds("generate", *given, "--max-new-tokens", 3, "--output", tmp_path / "out.jsonl")
    assert result.exit_code == 5, result.stderr
    told = [line.get("error", {}).get("message") for line in lines(tmp_path / "out.jsonl")]
    assert told == [
        "field `headnote_language` is not a language but `0`", "field `decision_language` is empty", None
    ]  # fmt: skip


def test_a_row_that_fails_is_recorded_and_tried_again(config: Callable[..., Path], model: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    rows = sample_rows("test")[:3]
    rows[1]["decision"] = rows[1]["decision"] * 20
    rows[0]["decision"], rows[2]["decision"] = rows[0]["decision"][:300], rows[2]["decision"][:300]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    output = tmp_path / "out.jsonl"
    arguments = ["generate", "--decision", data, "--model", model, "--max-new-tokens", 3, "--output", output]
    strict = config(overflow="error", max_length=2048)
    result = slds(*arguments, "--config", strict)
    assert result.exit_code == 5, result.stderr
    written = lines(output)
    assert ["error" in row for row in written] == [False, True, False]
    assert "tokens are more than" in written[1]["error"]["message"]
    data.write_text("".join(json.dumps(row | {"decision": row["decision"][:300]}) + "\n" for row in rows))
    again = slds_json(*arguments, "--config", strict)
    assert (again["before"], again["headnotes"], again["failed"]) == (2, 3, 0)


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_kill_9_and_the_same_command_end_in_the_same_file(
    kills: int, config: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    rows = 40 if kills > 1 else 12
    data = tmp_path / "rows.jsonl"
    many = [row | {"sample_id": i} for i, row in enumerate((sample_rows("train") + sample_rows("test"))[:rows])]
    many += [row | {"sample_id": 100 + i} for i, row in enumerate(many[: max(0, rows - len(many))])]
    data.write_text("".join(json.dumps(row) + "\n" for row in many), encoding="utf-8")
    file = config()

    def arguments(output: Path) -> list[str]:
        options = ["--decision", data, "--config", file, "--model", model, "--max-new-tokens", 24, "--output", output]
        return ["generate", *map(str, options), "--concurrency", "3"]

    slds_json(*arguments(tmp_path / "whole.jsonl"))
    output = tmp_path / "killed.jsonl"
    part = output.with_name("killed.jsonl.part")
    dice = random.Random(kills)
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-m", "headnote_cli", *arguments(output)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wanted = rows * (kill + 1) // (kills + 1)
        while process.poll() is None and (not part.exists() or part.read_bytes().count(b"\n") < wanted):
            time.sleep(0.005)
        time.sleep(dice.choice([0, 0.01, 0.03]))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    report = slds_json(*arguments(output))
    assert 0 < report["before"] < rows
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


class Echo:
    """Writes the seed of each row, from the last to the first; `written` are those it was done with."""

    def __init__(self) -> None:
        self.written: list[int] = []

    def write(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[tuple[Any, Headnote]]:
        for prompt in sorted(prompts, key=lambda one: -one.name.request.seed):
            yield prompt.name, Headnote(f"Regeste {prompt.name.request.seed} ≤ Höhe", "stop", 3)
            self.written.append(prompt.name.request.seed)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_at_any_point_loses_no_row(
    fault: str, config: Callable[..., Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_config(config())
    choice = generate.choose_model(loaded, str(model))
    encoder = generate.encoder_of(loaded, choice)
    monkeypatch.setattr(generate_many, "choose_model", lambda *_: choice)
    monkeypatch.setattr(generate_many, "encoder_of", lambda *_: encoder)
    monkeypatch.setattr(generate_many, "writing", lambda _: contextlib.nullcontext())
    rows = [(f"row {place}", row) for place, row in enumerate(sample_rows("test")[:3])]

    def write(output: Path) -> list[int]:
        backend = Echo()
        monkeypatch.setattr(generate_many, "backend_of", lambda *_: backend)
        with contextlib.suppress(OSError, Killed):
            options = generate_many.ManyOptions(output=output, sampling=Sampling(), model=str(model))
            generate_many.generate_many(loaded, rows, lambda _: None, options)
        return backend.written

    write(tmp_path / "whole.jsonl")
    with Disk() as disk:
        write(tmp_path / "counted.jsonl")
    assert disk.points > 20
    for point in range(disk.points):
        output = tmp_path / str(point) / "out.jsonl"
        with Disk(fault, point):
            written = write(output)
        again = write(output)
        assert not set(written) & set(again), f"point {point}: written twice"
        assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes(), f"point {point}"
        assert not output.with_name("out.jsonl.part").exists()


def test_rows_that_are_not_asked_for_again_stay_in_the_file(
    config: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    slds_json(*command(config(), model, output))
    before = output.read_bytes()
    limited = slds_json(*command(config(), model, output, "--limit", 1))
    assert (limited["headnotes"], limited["before"]) == (1, 1)
    assert output.read_bytes() == before
    result = slds(*command(config(), model, output, "--limit", 1, "--lang", "it"))
    assert "of other rows or languages kept in" in result.stderr
    assert {line["lang"] for line in lines(output)[:1]} == {"it"}
    assert set(before.splitlines()) <= set(output.read_bytes().splitlines())


class Fine(Chat):
    """Writes the same headnote for each request."""

    def do_POST(self) -> None:
        self.asked()
        self.answer(200, completion("Regeste"))


class Server(Chat):
    """The first answers to each request are bad ones."""

    faults = ("429", "500", "reset", "half", "slow")
    seen: dict[str, int]
    keys: set[str]

    def do_POST(self) -> None:
        text = self.asked()["messages"][-1]["content"]
        self.keys.add(str(self.headers["Authorization"]))
        number = self.seen[text] = self.seen.get(text, 0) + 1
        fault = self.faults[(len(text) + number) % len(self.faults)] if number <= 2 else "none"
        data = completion(f"Regeste {len(text)}")
        match fault:
            case "429" | "500":
                self.answer(int(fault), b"{}")
            case "reset":
                self.connection.close()
            case "half":
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
            case _:
                if fault == "slow":
                    time.sleep(0.2)
                self.answer(200, data)


@pytest.fixture
def server() -> Iterator[str]:
    Server.seen, Server.keys = {}, set()
    with running(Server) as address:
        yield address


def test_a_server_with_faults_writes_every_row_and_the_key_stays_secret(
    server: str, config: Callable[..., Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret")
    output = tmp_path / "out.jsonl"
    result = slds(*command(config(), model, output, "--endpoint", server, "--served-model", "m", "--concurrency", 4))
    assert result.exit_code == 0, result.stderr
    rows = lines(output)
    assert len(rows) == len(sample_rows("test"))
    assert all(row["headnote"].startswith("Regeste ") and row["finish_reason"] == "stop" for row in rows)
    assert Server.keys == {"Bearer sk-planted-secret"}
    told = result.stdout + result.stderr + "".join(file.read_text() for file in tmp_path.glob("out*"))
    assert "planted" not in told


def test_a_server_that_is_not_there_is_unreachable(config: Callable[..., Path], model: Path, tmp_path: Path) -> None:
    arguments = command(config(), model, tmp_path / "out.jsonl", "--endpoint", "http://127.0.0.1:9/v1")
    result = slds(*arguments)
    assert result.exit_code == 4
    assert "the server cannot be reached" in result.stderr
    assert not list(tmp_path.glob("out.jsonl*.part")) or not os.path.getsize(tmp_path / "out.jsonl.part")


def test_one_decision_can_be_written_by_a_server_onto_the_screen(
    server: str, config: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    decision = tmp_path / "decision.txt"
    decision.write_text(sample_rows("test")[0]["decision"], encoding="utf-8")
    result = slds(
        "generate", "--decision", decision, "--lang", "de", "--lang", "fr", "--model", model, "--config", config(),
        "--endpoint", server, "--served-model", "m",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines() if line] == ["Regeste", "Regeste"]
    assert f"model: m at {server}" in result.stderr


@pytest.fixture(scope="module")
def real_server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`transformers serve` with the tiny model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--host", "127.0.0.1", "--port", port]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen([*map(str, command), "--device", "cpu"], stdout=stream, stderr=stream)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"{address}/v1"
    finally:
        process.kill()
        process.wait()


def test_a_real_server_writes_what_the_model_writes_here(
    real_server: str, config: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert slds(*command(config(), model, here)).exit_code == 0
    result = slds(*command(config(), model, there, "--endpoint", real_server, "--served-model", model))
    assert result.exit_code == 0, result.stderr
    assert [(row["sample_id"], row["headnote"]) for row in lines(there)] == [
        (row["sample_id"], row["headnote"]) for row in lines(here)
    ]


def test_a_file_that_another_process_writes_is_refused(
    config: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    with writing(output):
        result = slds(*command(config(), model, output))
    assert result.exit_code == 2
    assert f"process {os.getpid()}" in result.stderr
    assert not output.exists()
    assert slds(*command(config(), model, output)).exit_code == 0
    assert sorted(file.name for file in tmp_path.glob("*out*")) == ["out.jsonl", "out.jsonl.settings.json"]
