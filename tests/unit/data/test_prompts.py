"""The templates: the workshop's text byte for byte, and no silent hole in it."""

from __future__ import annotations

import contextlib
import hashlib
import time
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import FileSystemLoader
from jinja2.sandbox import SandboxedEnvironment

from headnote_cli.data import prompts
from headnote_cli.data.prompts import PromptTemplates, copy_prompts
from headnote_cli.errors import ConfigError, DataError, SldsError
from tests.conftest import PROMPTS, examples, sample_rows

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


# The time limit's exception may meet a callback of the garbage collector, which cannot raise; it is then sent again.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in range(10 ** 9) %}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
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


def test_a_template_too_deep_to_compile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too large or too deep"):
        templates(tmp_path, user="{% for a in [1] %}" * 30 + "{% endfor %}" * 30)


@pytest.mark.parametrize("template", ["{{ 3000.5 * 5000 }}", "{{ 1e300 * 1e300 }}", "{{ 'ab' * 3 + 'c' * -1 }}"])
def test_ordinary_arithmetic_is_plain_jinjas(tmp_path: Path, template: str) -> None:
    rendered = templates(tmp_path, user=template).prompt({})[1]["content"]
    assert rendered == SandboxedEnvironment().from_string(template).render()


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_mark_and_line_endings_change_no_prompt_and_no_hash(tmp_path: Path, ending: str) -> None:
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    texts = {
        "system": "Du bist\nGericht.",
        "user": "{% include 'tail.jinja' %}\n{{ decision }}\n",
        "assistant": "a\n{{ x }}",
    }
    for folder in (plain, marked):
        folder.mkdir()
        (folder / "tail.jinja").write_text("b\nc", encoding="utf-8")
        templates(folder, **texts)
    for file in marked.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", ending.encode()))
    row = {"decision": "1\r\n2", "x": "\ufeffy"}
    assert PromptTemplates(marked).conversation(row) == PromptTemplates(plain).conversation(row)
    assert PromptTemplates(plain).conversation(row).completion[0]["content"] == "a\ny"
    assert "1\n2" in PromptTemplates(plain).conversation(row).prompt[1]["content"]
    assert PromptTemplates(marked).hashes() == PromptTemplates(plain).hashes()


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize(
    "user",
    [
        "{{ task }}{% if input %}: {{ input }}{% endif %}",
        "{{ task }}{{ input }}",
        "{{ task }}{{ '' ~ input | trim }}",
        "{{ task }}{% if input != none and input != '' %}: {{ input }}{% endif %}",
        "{{ task }}{% if input is not none and input != '' %}: {{ input }}{% endif %}",
    ],
)
def test_a_field_may_be_empty_or_null_where_the_template_copes(tmp_path: Path, value: str | None, user: str) -> None:
    prompt = templates(tmp_path, user=user).prompt({"task": "Summarise", "input": value})
    assert prompt[1] == {"role": "user", "content": "Summarise"}


@pytest.mark.parametrize(
    "condition",
    ["is none", "== none", "in [none]", "is eq none", "is not defined or none == FIELD", "is not ne none"],
)
def test_null_is_none_to_a_template(tmp_path: Path, condition: str) -> None:
    tests = [f"{{{{ {name} {condition.replace('FIELD', name)} }}}}" for name in ("a", "b", "none")]
    rendered = templates(tmp_path, user=" ".join(tests)).prompt({"a": None, "b": ""})
    assert rendered[1]["content"] == "True False True"


@pytest.mark.parametrize("condition", ["input", "input != none", "none != input", "input is not none", "input != ''"])
def test_a_condition_on_a_null_field_does_not_hold(tmp_path: Path, condition: str) -> None:
    user = f"{{{{ task }}}}{{% if {condition} %}}: {{{{ input }}}}{{% endif %}}"
    assert templates(tmp_path, user=user).prompt({"task": "x", "input": None})[1]["content"] == "x"


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_message_that_comes_out_empty_is_named_with_its_template_and_fields(
    tmp_path: Path, value: str | None
) -> None:
    loaded = templates(tmp_path, user="{{ input }} {{ more }}", assistant="{{ output }}")
    with pytest.raises(DataError, match=r"the headnote is empty; fields of the template: `output`") as caught:
        loaded.conversation({"input": "x", "more": None, "output": value})
    assert caught.value.where == f"{tmp_path}/assistant.jinja"
    with pytest.raises(DataError, match=r"the user message is empty; fields of the template: `input`, `more`"):
        loaded.prompt({"input": value, "more": None})


def test_a_missing_system_template_is_no_fault(tmp_path: Path) -> None:
    templates(tmp_path)
    (tmp_path / "system.jinja").unlink()
    loaded = PromptTemplates(tmp_path)
    assert [message["role"] for message in loaded.prompt({})] == ["user"]
    assert loaded.hashes().keys() == {"user", "assistant"}
    assert loaded.fields() == set()
    copy_prompts(tmp_path, tmp_path / "kept")
    assert PromptTemplates(tmp_path / "kept").hashes() == loaded.hashes()


def test_every_file_that_a_template_reads_is_hashed(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "tail.txt").write_text("{% include './end.txt' ignore missing %}", encoding="utf-8")
    (tmp_path / "other.txt").write_text("x", encoding="utf-8")
    named = templates(tmp_path, user="{% include 'parts/tail.txt' %}")
    assert named.hashes().keys() == {"system", "user", "assistant", "parts/tail.txt"}
    (tmp_path / "end.txt").write_text("end", encoding="utf-8")
    assert named.hashes().keys() == {"system", "user", "assistant", "parts/tail.txt", "end.txt"}
    found_out = templates(tmp_path, user="{% include decision %}")
    assert found_out.hashes().keys() == {"system", "user", "assistant", "parts/tail.txt", "end.txt", "other.txt"}


def test_a_broken_file_that_a_template_includes_is_named_before_any_row(tmp_path: Path) -> None:
    (tmp_path / "tail.txt").write_text("a\n{% if %}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        templates(tmp_path, user="{% include 'tail.txt' %}")
    assert str(caught.value.where).endswith("tail.txt:2")


def test_kept_prompts_render_the_same(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "parts").mkdir(parents=True)
    (source / "parts" / "tail.txt").write_text("{{ decision }}!", encoding="utf-8")
    original = templates(source, user="{% include 'parts/tail.txt' %}")
    copy_prompts(source, target)
    row = {"decision": "x"}
    assert PromptTemplates(target).conversation(row) == original.conversation(row)
    assert PromptTemplates(target).hashes() == original.hashes()


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


WHOLE = st.sampled_from(
    """
    {{ decision }} ¦ {{ decision | upper | trim }} ¦ {{ year + 1 }} ¦ {{ year * 3 - 7 }} ¦ {{ 2 ** 5 % 7 }} ¦ ü «x» ¦ \n
    ¦ {% if year > 3 %}a{% elif decision %}b{% else %}c{% endif %} ¦ {%- if headnote -%} x {%- endif +%} ¦ \t{# note #}
    ¦ {% for part in parts %}{{ loop.index }}. {{ part }}{% if not loop.last %}, {% endif %}{% endfor %} ¦ {{ parts }}
    ¦ {% set ns = namespace(n=0) %}{% for p in parts %}{% set ns.n = ns.n + p | length %}{% endfor %}{{ ns.n }} ¦ <b>&
    ¦ {% macro m(a, b='z') %}[{{ a }}|{{ b }}]{% endmacro %}{{ m(decision) }}{{ m(year, headnote) }}
    ¦ {% include 'tail.txt' %} ¦ {% from 'macros.txt' import t %}{{ t('q') }} ¦ {{ 'a' ~ year ~ decision }} ¦ \r\n
    ¦ {% raw %}{{ x }}{% endraw %} ¦ {{ decision.split() | join('-') }} ¦ {{ '%s/%05d' % (headnote, year) }} ¦ $ { % } #
    ¦ {{ '{:>9}'.format(year) }} ¦ {{ decision | center(40) | replace('e', 'EE') | wordwrap(9) }} ¦ {{ parts | tojson }}
    ¦ {% filter indent(2) %}a\nb{{ decision }}{% endfilter %} ¦ {% set y %}{{ headnote }}!{% endset %}{{ y ~ y }}
    ¦ {% autoescape true %}{{ decision }}{{ '<' ~ headnote }}{% endautoescape %} ¦ {{ (decision + headnote) * 2 }}
    ¦ {{ parts | map('length') | sum + 0.5 }} ¦ {{ none is none and decision is defined }} ¦ {{ parts + ['x'] }}
    ¦ {{ decision[:3] }}
    """.replace("\n    ¦", "¦")
    .strip()
    .split("¦")
)
PLAIN = st.characters(exclude_characters="\r\ufeff\u200b\u2060")
GIVEN = st.fixed_dictionaries(
    {
        "decision": st.text(PLAIN, max_size=20).map(partial(unicodedata.normalize, "NFC")),
        "headnote": st.text(PLAIN, max_size=9).map(partial(unicodedata.normalize, "NFC")),
        "year": st.integers(0, 9999),
        "parts": st.lists(st.text(max_size=5), max_size=3),
    }
)


@settings(max_examples=examples(2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(WHOLE, min_size=1, max_size=6), row=GIVEN)
def test_any_valid_template_renders_as_plain_jinja_does(tmp_path: Path, pieces: list[str], row: dict[str, Any]) -> None:
    (tmp_path / "macros.txt").write_text("{% macro t(x) %}<{{ x }}>{% endmacro %}", encoding="utf-8")
    (tmp_path / "tail.txt").write_text("({{ headnote }})\n\n", encoding="utf-8")
    ours = templates(tmp_path, user="x" + "".join(pieces)).prompt(row)[1]["content"]
    plain = SandboxedEnvironment(loader=FileSystemLoader(tmp_path))
    assert ours == plain.get_template("user.jinja").render(**row)


PIECES = st.sampled_from(
    """
    {{ decision }} | {{ | }} | {% | %} | {# x #} | {% if a %} | {% endif %} | {% for x in decision %} | {% endfor %}
    | {{ decision.upper() }} | {{ x.y.z }} | {{ 1 / 0 }} | {{ decision[0:2] }} | text | {{ none.a }} | {% set a = 1 %}
    | {{ decision.format(1) }} | {{ 'a' ~ 1 }} | {% include 'system.jinja' %} | {{ lipsum(1) }} | {{ cycler }} | ü
    """.split(" | ")
)
NAMES = st.sampled_from(["decision", "a", "x", "self", "loop"])
FIELDS = st.dictionaries(NAMES, st.text(max_size=5) | st.none() | st.integers())


@settings(max_examples=examples(2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(PIECES, max_size=6), row=FIELDS)
def test_any_template_renders_any_row_or_says_why_not(
    tmp_path: Path, pieces: list[str], row: dict[str, object]
) -> None:
    with contextlib.suppress(SldsError):
        templates(tmp_path, user="".join(pieces)).conversation(row)
