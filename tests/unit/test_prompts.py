"""The templates: the workshop's text byte for byte, and no silent hole in it."""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import FileSystemLoader
from jinja2.sandbox import SandboxedEnvironment

from headnote_cli import prompts
from headnote_cli.errors import ConfigError, DataError, SldsError
from headnote_cli.prompts import PromptTemplates
from tests.conftest import PROMPTS, sample_rows

# Published checkpoints were trained with exactly these bytes.
SHA256 = {
    "system": "7c05a0050a39e34e1095fd79f9210d7911546393c082998a1a44818d8df37709",
    "user": "f9003b5f8d32ae7f38d29fa076eaeaee03a5f14f13cb49cbc9a6b37a8ca6fe47",
    "assistant": "259b0e01451a9956e64ef85edf37cd1bc9dd8594d5ef96f25b5d01a100272177",
}


def templates(folder: Path, **texts: str) -> PromptTemplates:
    for role in ("system", "user", "assistant"):
        (folder / f"{role}.jinja").write_text(texts.get(role, role), encoding="utf-8")
    return PromptTemplates(folder)


def test_the_shipped_prompts_are_the_published_ones() -> None:
    for role, digest in SHA256.items():
        assert hashlib.sha256((PROMPTS / f"{role}.jinja").read_bytes()).hexdigest() == digest
    assert PromptTemplates(PROMPTS).hashes() == SHA256


def test_rendered_text_equals_plain_jinjas() -> None:
    plain = SandboxedEnvironment(loader=FileSystemLoader(PROMPTS))
    for row in sample_rows("train"):
        conversation = PromptTemplates(PROMPTS).conversation(row)
        for message in [*conversation.prompt, *conversation.completion]:
            assert message["content"] == plain.get_template(f"{message['role']}.jinja").render(**row)


def test_the_completion_is_the_headnote() -> None:
    row = sample_rows("test")[0]
    assert PromptTemplates(PROMPTS).conversation(row).completion == [{"role": "assistant", "content": row["headnote"]}]


def test_a_misspelt_field_names_template_line_fields_and_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        templates(tmp_path, user="first line\n{{ desicion }}").conversation({"decision": "x", "headnote": "y"})
    assert caught.value.where == f"{tmp_path}/user.jinja:2"
    assert "did you mean `decision`?" in caught.value.message
    assert "decision, headnote" in caught.value.message


def test_a_missing_template_lists_those_present(tmp_path: Path) -> None:
    (tmp_path / "system.jinja").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"there is no user\.jinja \(the folder holds system\.jinja\)"):
        PromptTemplates(tmp_path)


def test_a_broken_template_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        templates(tmp_path, user="a\n{% if %}")
    assert str(caught.value.where).endswith("user.jinja:2")


def test_templates_cannot_reach_out_of_the_sandbox(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        templates(tmp_path, user="{{ ''.__class__.__mro__ }}").conversation({})


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in range(10 ** 9) %}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ 9 ** (10 ** 9) }}",
    ],
)
def test_a_template_that_would_not_end_ends_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.setattr(prompts, "RENDER_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(DataError):
        templates(tmp_path, user=template).conversation({})
    assert time.monotonic() - started < 5


def test_templates_include_their_neighbours_and_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "secret.jinja").write_text("secret", encoding="utf-8")
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "tail.jinja").write_text("tail", encoding="utf-8")
    assert templates(folder, user="{% include 'tail.jinja' %}").prompt({})[1]["content"] == "tail"
    for outside in ("../secret.jinja", str(tmp_path / "secret.jinja")):
        with pytest.raises(DataError):
            templates(folder, user=f"{{% include '{outside}' %}}").prompt({})


def test_the_fields_that_templates_name() -> None:
    assert PromptTemplates(PROMPTS).fields() == {"decision", "headnote", "headnote_language"}
    assert PromptTemplates(PROMPTS).fields("assistant") == {"headnote"}


PIECES = st.sampled_from(
    """
    {{ decision }} | {{ | }} | {% | %} | {# x #} | {% if a %} | {% endif %} | {% for x in decision %} | {% endfor %}
    | {{ decision.upper() }} | {{ x.y.z }} | {{ 1 / 0 }} | {{ decision[0:2] }} | text | {{ none.a }} | {% set a = 1 %}
    | {{ decision.format(1) }} | {{ 'a' ~ 1 }} | {% include 'system.jinja' %} | {{ lipsum(1) }} | {{ cycler }} | ü
    """.split(" | ")
)
NAMES = st.sampled_from(["decision", "a", "x", "self", "loop"])
FIELDS = st.dictionaries(NAMES, st.text(max_size=5) | st.none() | st.integers())


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(PIECES, max_size=6), row=FIELDS)
def test_any_template_renders_any_row_or_says_why_not(
    tmp_path: Path, pieces: list[str], row: dict[str, object]
) -> None:
    with contextlib.suppress(SldsError):
        templates(tmp_path, user="".join(pieces)).conversation(row)
