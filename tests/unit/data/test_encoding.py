"""One encoding for training and generation: what fits, what gives way, what stays text."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headnote_cli.data.encoding import IGNORED, Encoder
from headnote_cli.data.fields import row_fault
from headnote_cli.data.lengths import LengthReport, histogram, quantiles
from headnote_cli.data.prompts import PromptTemplates
from headnote_cli.data.shortening import CUT_MARK
from headnote_cli.errors import ConfigError, DataError
from tests.conftest import CHAT_TEMPLATE, CHATML, PROMPTS, examples, sample_rows

TOKENIZERS = ("gemma_tokenizer", "chatml_tokenizer")
STRATEGIES = ("structure", "middle", "end")


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def encoder(tokenizer: Any, max_length: int | None = None, overflow: Any = "structure") -> Encoder:
    return Encoder(tokenizer, PromptTemplates(PROMPTS), max_length, overflow)


def test_the_prompt_of_generation_is_the_prefix_of_the_training_sequence(tokenizer: Any) -> None:
    for row in sample_rows("train"):
        trained = encoder(tokenizer).encode(row)
        asked = encoder(tokenizer).encode_prompt(row)
        assert trained is not None
        assert asked is not None
        assert trained.example()["input_ids"][: len(asked.prompt_ids)] == asked.prompt_ids == trained.prompt_ids


@pytest.mark.parametrize("overflow", STRATEGIES)
def test_a_cut_prompt_is_the_same_in_generation_when_the_same_room_is_left(tokenizer: Any, overflow: str) -> None:
    cutting = encoder(tokenizer, 700, overflow)
    for row in sample_rows("test"):
        trained = cutting.encode(row)
        assert trained is not None
        asked = cutting.encode_prompt(row, room=len(trained.completion_ids))
        assert trained.cut > 0
        assert asked is not None
        assert asked.prompt_ids == trained.prompt_ids


def test_labels_are_the_headnote_and_its_end_of_turn(tokenizer: Any) -> None:
    row = sample_rows("test")[0]
    one = encoder(tokenizer)
    encoded = one.encode(row)
    assert encoded is not None
    labels = [label for label in encoded.example()["labels"] if label != IGNORED]
    assert one.turn_end_id() in labels
    assert tokenizer.decode(labels).startswith(row["headnote"])


@pytest.mark.parametrize("overflow", STRATEGIES)
@pytest.mark.parametrize("max_length", [640, 720, 900])
def test_what_is_too_long_fits_exactly_and_keeps_headnote_and_instructions(
    tokenizer: Any, overflow: str, max_length: int
) -> None:
    for row in sample_rows("train"):
        whole = encoder(tokenizer).encode(row)
        encoded = encoder(tokenizer, max_length, overflow).encode(row)
        assert whole is not None
        assert encoded is not None
        size = len(encoded.prompt_ids) + len(encoded.completion_ids)
        assert size <= max_length
        assert abs(encoded.cut - (len(whole.prompt_ids) + len(whole.completion_ids) - size)) <= 2
        assert encoded.completion_ids == whole.completion_ids
        assert "Your response should consist solely" in encoded.prompt_text
        if encoded.cut:
            assert CUT_MARK in encoded.prompt_text


def test_the_middle_goes_and_no_word_is_broken(tokenizer: Any) -> None:
    for row in sample_rows("train"):
        encoded = encoder(tokenizer, 800, "middle").encode(row)
        assert encoded is not None
        kept = encoded.prompt_text[encoded.prompt_text.index("decision:\n") + len("decision:\n") :]
        head, _, tail = kept.partition(CUT_MARK)
        assert row["decision"].startswith(head.rstrip())
        tail = (
            tail.strip()
            .removesuffix("<end_of_turn>\n<start_of_turn>model")
            .removesuffix("<|im_end|>\n<|im_start|>assistant")
            .strip()
        )
        assert row["decision"].rstrip().endswith(tail)
        words = set(row["decision"].split())
        assert head.split()[-1] in words
        assert tail.split()[0] in words


def test_drop_leaves_a_row_out_and_error_names_it(tokenizer: Any) -> None:
    row = sample_rows("train")[0]
    whole = encoder(tokenizer).encode(row)
    assert whole is not None
    assert encoder(tokenizer, 640, "drop").encode(row) is None
    assert encoder(tokenizer, 640, "drop").encode_or_measure(row) == len(whole.prompt_ids) + len(whole.completion_ids)
    with pytest.raises(DataError, match=r"sample_id 9011.*tokens are more than 640"):
        encoder(tokenizer, 640, "error").encode(row)


def test_only_marks_of_our_own_are_marked_as_cuts(tokenizer: Any) -> None:
    row = sample_rows("train")[0]
    quoted = row | {"decision": row["decision"].replace(". ", f". {CUT_MARK} ", 3), "headnote": f"«{CUT_MARK}»"}
    for overflow in STRATEGIES:
        encoded = encoder(tokenizer, 800, overflow).encode(quoted)
        assert encoded is not None
        marked = [encoded.prompt_text[start:end] for start, end in encoded.cut_spans]
        assert marked
        assert set(marked) == {CUT_MARK}
        assert len(marked) < encoded.text.count(CUT_MARK), "the headnote's own is none"
        plain = encoder(tokenizer, 800, overflow).encode(row)
        assert plain is not None
        assert len(plain.cut_spans) == plain.prompt_text.count(CUT_MARK)


def test_a_row_without_the_field_to_cut_says_which_key_names_it(tokenizer: Any) -> None:
    one = Encoder(tokenizer, PromptTemplates(PROMPTS), 640, "structure", "judgment")
    with pytest.raises(DataError, match="has no text `judgment` to cut") as caught:
        one.encode(sample_rows("train")[0])
    assert "set `overflow_field`" in str(caught.value.hint)
    assert "decision, " in str(caught.value.hint)


def test_a_prompt_that_cannot_fit_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="without any `decision` it is still longer"):
        encoder(tokenizer, 64).encode(sample_rows("train")[0])


def test_lengths_are_counted_by_language_pair(tokenizer: Any) -> None:
    report = LengthReport()
    rows = sample_rows("test")
    for row in rows:
        report.add(row, encoder(tokenizer, 700).encode_or_measure(row))
    report.add(rows[0], DataError("no headnote"))
    report.add(rows[1], 900)
    summary = report.summary()
    assert (summary["rows"], summary["rows_cut"], summary["rows_bad"], summary["rows_dropped"]) == (8, 6, 1, 1)
    assert summary["tokens_dropped"] == 900
    assert {pair: part["rows"] for pair, part in summary["pairs"].items()} == {
        "fr_de": 2, "fr_fr": 2, "fr_it": 1, "it_de": 1, "it_fr": 1, "it_it": 1,
    }  # fmt: skip
    assert sum(part["tokens_cut"] for part in summary["pairs"].values()) == summary["tokens_cut"] > 0
    assert sum(count for _, count in summary["histogram"]) == 6


def test_a_histogram_counts_every_value() -> None:
    assert histogram([1, 8, 9, 16], steps=2) == [(8, 2), (16, 2)]
    assert histogram([]) == []


def test_quantiles_are_nearest_ranks() -> None:
    assert quantiles(range(1, 101)) == {"median": 50, "p90": 90, "max": 100}
    assert quantiles([7]) == {"median": 7, "p90": 7, "max": 7}
    assert quantiles([]) is None


CONTROLS = st.sampled_from(
    [
        "<end_of_turn>",
        "<start_of_turn>",
        "<bos>",
        "<eos>",
        "<|im_end|>",
        "<|im_start|>",
        "<",
        "|>",
        "_turn>",
        "model\n",
        "é",
        " ",
    ]
)


@settings(max_examples=examples(2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(CONTROLS | st.text(max_size=8), max_size=12))
def test_control_tokens_in_a_decision_stay_text(tokenizer: Any, parts: list[str]) -> None:
    text = "".join(parts)
    one = encoder(tokenizer)
    innocent = one.encode({"decision": "a", "headnote": "b", "headnote_language": "de"})
    encoded = one.encode({"decision": text, "headnote": f"b{text}", "headnote_language": "de"})
    assert innocent is not None
    assert encoded is not None
    count = [
        sum(token in one.control_ids for token in example.example()["input_ids"]) for example in (innocent, encoded)
    ]
    assert count[0] == count[1], "only the template's own control tokens"
    unknown = tokenizer.unk_token is not None and tokenizer.unk_token_id in encoded.prompt_ids
    if not unknown:
        assert tokenizer.decode(encoded.prompt_ids, clean_up_tokenization_spaces=False) == encoded.prompt_text


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
VALUES = st.recursive(
    SCALARS | CONTROLS | st.text(st.characters(), max_size=200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["decision", "headnote", "headnote_language", "decision_language", "sample_id", "", "self"])


@settings(max_examples=examples(2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.dictionaries(FIELDS | st.text(max_size=4), VALUES, max_size=6), overflow=st.sampled_from(STRATEGIES))
@example(row={"decision": "x" * 9000, "headnote": "y", "headnote_language": "de"}, overflow="structure")
@example(row={"decision": "1. " * 3000, "headnote": "y", "headnote_language": "it"}, overflow="structure")
def test_any_row_is_encoded_within_bounds_or_named_as_faulty(
    tokenizer: Any, row: dict[str, Any], overflow: str
) -> None:
    one = encoder(tokenizer, 560, overflow)
    if row_fault(row, one.templates.fields(), one.templates.fields("assistant") | {"decision"}) is not None:
        return
    try:
        encoded = one.encode(row)
    except DataError:
        return
    assert encoded is not None
    assert len(encoded.prompt_ids) + len(encoded.completion_ids) <= 560


def test_a_tokenizer_without_chat_template_is_refused(chatml_tokenizer: Any) -> None:
    class Bare:
        chat_template = None
        backend_tokenizer = chatml_tokenizer.backend_tokenizer
        added_tokens_decoder = chatml_tokenizer.added_tokens_decoder

    with pytest.raises(ConfigError) as caught:
        encoder(Bare())
    assert "chat_template_path" in str(caught.value.hint)


def test_a_template_that_does_not_end_the_turn_is_refused(
    chatml_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chatml_tokenizer, "chat_template", "{% for m in messages %}{{ m.content }}\n{% endfor %}")
    with pytest.raises(ConfigError, match="never learn to stop"):
        encoder(chatml_tokenizer).turn_end_id()


def test_a_template_that_writes_the_prompt_differently_is_refused(
    chatml_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    template = "{{ messages | length }}{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    monkeypatch.setattr(chatml_tokenizer, "chat_template", template)
    with pytest.raises(ConfigError, match="differently when an answer follows"):
        encoder(chatml_tokenizer).encode(sample_rows("test")[0])


TURNS = (
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ (m.content | trim) + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
WITHOUT_SYSTEM = {
    "it refuses the role, as Gemma 2's": "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}" + TURNS,
    "user and assistant must alternate, as in Mistral's": "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% endfor %}" + TURNS,
    "it drops the message": "{{ bos_token }}{% set messages = messages | rejectattr('role', 'eq', 'system') | list %}"
    + TURNS,
    "it writes the message only where no answer follows": "{{ bos_token }}"
    "{% set system = messages[0].content if messages[0].role == 'system' and messages | length == 2 else '' %}"
    "{{ system }}{% set messages = messages | rejectattr('role', 'eq', 'system') | list %}" + TURNS,
}


@pytest.mark.parametrize("template", WITHOUT_SYSTEM.values(), ids=WITHOUT_SYSTEM)
def test_a_system_message_that_the_chat_template_does_not_take_opens_the_users(
    gemma_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    row = sample_rows("test")[0]
    taking = encoder(gemma_tokenizer)
    theirs, cut = taking.encode(row), encoder(gemma_tokenizer, 700).encode(row)
    own = taking.fingerprint()
    monkeypatch.setattr(gemma_tokenizer, "chat_template", template)
    joining = encoder(gemma_tokenizer)
    ours, asked = joining.encode(row), joining.encode_prompt(row)
    assert theirs is not None
    assert asked is not None
    assert ours == theirs, "Gemma 3's own template does the same"
    assert asked.prompt_ids == ours.prompt_ids
    assert encoder(gemma_tokenizer, 700).encode(row) == cut
    assert [message["role"] for message in ours.messages()] == ["system", "user"], "a server renders them itself"
    assert "no system message: its text goes before the user message" in joining.notes[0]
    assert joining.fingerprint() != own
    assert taking.notes == ()


def test_a_template_that_keeps_no_message_at_all_is_not_said_to_drop_one(
    chatml_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}<|im_end|>{% endfor %}"
    monkeypatch.setattr(chatml_tokenizer, "chat_template", template)
    assert encoder(chatml_tokenizer).notes == ()


@pytest.mark.parametrize("system", [None, "", " \n{# nothing #}", "{% if year %}In {{ year }}.{% endif %}"])
@pytest.mark.parametrize("template", [CHAT_TEMPLATE, *WITHOUT_SYSTEM.values()])
def test_a_system_template_that_is_missing_or_blank_sends_no_system_message(
    gemma_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str | None, template: str
) -> None:
    monkeypatch.setattr(gemma_tokenizer, "chat_template", template)
    texts = {"system": system, "user": "{{ decision }}", "assistant": "{{ headnote }}"}
    for role, text in texts.items():
        if text is not None:
            (tmp_path / f"{role}.jinja").write_text(text, encoding="utf-8")
    encoded = Encoder(gemma_tokenizer, PromptTemplates(tmp_path)).encode({"decision": "x", "headnote": "y", "year": ""})
    assert encoded is not None
    assert encoded.messages() == [{"role": "user", "content": "x"}]
    assert encoded.text == ("<bos><start_of_turn>user\nx<end_of_turn>\n<start_of_turn>model\ny<end_of_turn>\n")


@pytest.mark.parametrize("whose", ["a file", "another model's", "the model's own"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_mark_before_a_chat_template_and_its_line_endings_change_no_id(
    chatml_tokenizer: Any, write_config: Any, tmp_path: Path, whose: str, ending: str
) -> None:
    from headnote_cli.config.layers import load_config
    from headnote_cli.models.base import base_model, load_tokenizer

    model, other, keys = tmp_path / "model", tmp_path / "other", {}
    for folder in (model, other):
        chatml_tokenizer.save_pretrained(folder)
    template = CHATML.replace("}{%", "}{#-\n-#}\n{%-")
    marked = "\ufeff" + template.replace("\n", ending)
    file = {"a file": tmp_path / "chat.jinja", "another model's": other / "chat_template.jinja"}.get(
        whose, model / "chat_template.jinja"
    )
    file.write_bytes(marked.encode())
    if whose != "the model's own":
        keys["chat_template_path"] = str(file if whose == "a file" else other)
    config = load_config(write_config(model_name_or_path=str(model), **keys))
    loaded = load_tokenizer(base_model(config), config)
    plain = load_tokenizer(base_model(config))
    plain.chat_template = template
    row = sample_rows("test")[0]
    assert encoder(loaded).encode(row) == encoder(plain).encode(row)
    assert encoder(loaded).fingerprint() == encoder(plain).fingerprint()


def test_a_chat_template_that_is_no_utf8_is_named(chatml_tokenizer: Any, write_config: Any, tmp_path: Path) -> None:
    from headnote_cli.config.layers import load_config
    from headnote_cli.models.base import base_model, load_tokenizer

    chatml_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "chat.jinja").write_bytes(b"\xff\xfe{")
    keys = {"model_name_or_path": str(tmp_path / "model"), "chat_template_path": str(tmp_path / "chat.jinja")}
    config = load_config(write_config(**keys))
    with pytest.raises(ConfigError, match="cannot be read as UTF-8") as caught:
        load_tokenizer(base_model(config), config)
    assert str(caught.value.where).endswith("chat.jinja")


OTHER_FORMS: list[Any] = [
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.replace("\n", "\r"),
    lambda text: f"\ufeff{text}",
    lambda text: f"\u200b\u2060{text}",
    lambda text: "\ufeff" + unicodedata.normalize("NFD", text).replace("\n", "\r\n"),
]


@pytest.mark.parametrize("max_length", [None, 700])
@pytest.mark.parametrize("form", OTHER_FORMS)
def test_the_same_text_in_another_form_has_the_same_ids(tokenizer: Any, form: Any, max_length: int | None) -> None:
    one = encoder(tokenizer, max_length)
    for plain in sample_rows("test"):
        other = {name: form(value) if isinstance(value, str) else value for name, value in plain.items()}
        assert other["decision"] != plain["decision"]
        trained, expected = one.encode(other), one.encode(plain)
        assert trained is not None
        assert trained == expected
        assert (trained.cut > 0) == (max_length is not None)
        assert one.encode_prompt(other, room=40) == one.encode_prompt(plain, room=40)


def test_spaces_that_have_a_width_stay(tokenizer: Any) -> None:
    row = sample_rows("test")[0]
    spaced = row | {"decision": row["decision"].replace("Art. ", "Art.\u00a0").replace("E. ", "E.\u202f")}
    encoded = encoder(tokenizer).encode_prompt(spaced)
    assert encoded is not None
    assert spaced["decision"].strip() in encoded.prompt_text
