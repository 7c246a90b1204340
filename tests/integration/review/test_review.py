"""`slds review` by the command line, and its page in a real browser: found, linked, marked, exported, harmless."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import slds, slds_json
from tests.conftest import sample_rows, save_lines

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 400, "height": 800}
TEXT = """node => {
  const copy = node.cloneNode(true);
  copy.querySelectorAll("h4").forEach((heading) => heading.remove());  // which the page adds
  return copy.textContent;
}"""
HOSTILE = (
    "Erwägungen: 1. <script>alert(1)</script> {{ 7*7 }} <img src=x onerror=alert(2)> \u202egnol\u202c\u0007 &amp; "
    "Art. 41 Abs. 1 OR. 2. Ende. "
)


def predictions_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Predictions that are the references, the first of them with faults."""
    lines = [
        {
            "sample_id": row["sample_id"],
            "lang": row["headnote_language"],
            "headnote": row["headnote"],
            "finish_reason": "stop",
            "tokens": {"prompt": 900, "completion": 80, "cut": 0},
            "citations": {"found": [], "partly": [], "unsupported": []},
            "language": {"expected": row["headnote_language"], "detected": row["headnote_language"]},
        }
        for row in rows
    ]
    lines[0] |= {"headnote": f"{rows[0]['headnote']} Art. 999 OR (E. 47).", "finish_reason": "length"}
    lines[1] |= {"headnote": "Kurz und anders."}
    return lines


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return sample_rows("train")


@pytest.fixture
def made(rows: list[dict[str, Any]], tmp_path: Path) -> Path:
    """The page of the sample rows."""
    return page_of(rows, predictions_of(rows), tmp_path)


def page_of(rows: list[dict[str, Any]], predictions: list[dict[str, Any]], folder: Path) -> Path:
    references = save_lines(folder / "rows.jsonl", rows)
    output = folder / "review.html"
    written = save_lines(folder / "headnotes.jsonl", predictions)
    slds_json("review", "--predictions", written, "--references", references, "--output", output)
    return output


# The command


def test_a_page_is_written_from_a_split_and_counts_what_it_leaves_out(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = write_config(dataset_test_split="test", dataset_eval_split="validation")
    lines = predictions_of(sample_rows("test"))
    lines[2] = {"sample_id": lines[2]["sample_id"], "lang": lines[2]["lang"], "error": {"type": "X", "message": "y"}}
    lines.append(lines[0] | {"sample_id": "nobody's"})
    output = tmp_path / "new" / "review.html"
    arguments = [
        "review",
        "--predictions",
        save_lines(tmp_path / "p.jsonl", lines),
        "--config",
        config,
        "--output",
        output,
    ]
    report = slds_json(*arguments)
    assert report["rows"] == len(lines) - 2
    assert report["left_out"] == {"missing": 1, "extra": 0, "duplicates": 0, "failed": 1}
    assert (report["unsupported"], report["unfinished"]) == (1, 1)
    assert report["bytes"] == output.stat().st_size
    assert [file.name for file in output.parent.iterdir()] == ["review.html"]
    before = output.read_bytes()
    refused = slds(*arguments)
    assert refused.exit_code == 2
    assert "exists already" in refused.stderr
    assert output.read_bytes() == before
    for taken in (tmp_path / "p.jsonl", tmp_path):
        assert slds(*arguments[:-1], taken, "--force").exit_code == 2
    told = slds(*arguments, "--force")
    assert told.exit_code == 0
    assert "1 prediction with an error instead of a headnote, left out" in told.stderr
    assert "1 with citations not found, 1 unfinished" in told.stdout
    assert "open it" in told.stdout
    assert output.read_bytes() == before


def test_predictions_of_other_rows_are_refused_with_names_from_both_sides(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    lines = [{"sample_id": "elsewhere", "lang": "de", "headnote": "x"}]
    arguments = [
        "--predictions",
        save_lines(tmp_path / "p.jsonl", lines),
        "--references",
        save_lines(tmp_path / "r.jsonl", rows),
    ]
    result = slds("review", *arguments, "--output", tmp_path / "review.html")
    assert result.exit_code == 5
    assert "no headnote finds its row" in result.stderr
    assert "elsewhere (de)" in result.stderr
    assert str(rows[0]["sample_id"]) in result.stderr
    assert not (tmp_path / "review.html").exists()


def test_two_files_of_one_name_are_refused(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    for name in "xy":
        (tmp_path / name).mkdir()
    files = [save_lines(tmp_path / name / "a.jsonl", predictions_of(rows)) for name in "xy"]
    named = [part for file in files for part in ("--predictions", file)]
    result = slds(
        "review", *named, "--references", save_lines(tmp_path / "r.jsonl", rows), "--output", tmp_path / "r.html"
    )
    assert result.exit_code == 2
    assert "two files have the same name" in result.stderr
    assert not (tmp_path / "r.html").exists()


# The page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=root)
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page; at the end nothing was complained of and nothing asked of any network."""
    contexts, heard = [], []

    def go(file: Path, size: dict[str, int] = WIDE, **more: Any) -> Any:
        contexts.append(browser.new_context(viewport=size, **more))
        page = contexts[-1].new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: heard.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert [one for one in heard if not one.startswith("blob:")] == []


def listed(page: Any) -> int:
    return int(page.locator("#rows button").count())


def chosen(page: Any) -> int:
    """The number of the chosen row in the list."""
    script = "[...document.querySelectorAll('#rows button')].findIndex((one) => one.ariaCurrent === 'true')"
    return int(page.evaluate(script))


def marked(page: Any) -> list[str]:
    return [button.get_attribute("data-mark") for button in page.locator("#marks [aria-pressed=true]").all()]


def test_texts_stand_side_by_side_in_their_languages(
    made: Path, visit: Callable[..., Any], rows: list[dict[str, Any]]
) -> None:
    page = visit(made)
    page.locator("#rows button").nth(2).click()
    row = rows[2]
    for name, text, language in (
        ("headnote", row["headnote"], row["headnote_language"]),
        ("reference", row["headnote"], row["headnote_language"]),
        ("paragraphs", row["decision"], row["decision_language"]),
    ):
        assert page.locator(f"#{name}").evaluate(TEXT) == text
        assert page.locator(f"#{name}").get_attribute("lang") == language
    boxes = [page.locator(f"#{name}").bounding_box() for name in ("rows", "headnote", "paragraphs")]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert boxes[1]["x"] + boxes[1]["width"] <= boxes[2]["x"]


def test_filters_search_and_order_choose_rows(
    made: Path, visit: Callable[..., Any], rows: list[dict[str, Any]]
) -> None:
    from playwright.sync_api import expect

    headnotes = {str(one["sample_id"]): one["headnote"] for one in predictions_of(rows)}

    def has(row: dict[str, Any], query: str) -> bool:
        """Whether each word is in a text of the row."""
        names = [str(row.get(name, "")) for name in ("sample_id", "decision_id", "law_area", "year")]
        texts = "\n".join([*names, row["headnote"], row["decision"], headnotes[str(row["sample_id"])]]).lower()
        return all(word in texts for word in query.lower().split())

    page = visit(made)
    assert listed(page) == len(rows)
    page.select_option("#problem", "unsupported")
    assert listed(page) == 1
    assert "2 not found" in page.locator("#rows").inner_text()
    page.select_option("#problem", "unfinished")
    assert listed(page) == 1
    page.select_option("#problem", "language")
    assert listed(page) == 0
    assert "remove a filter" in page.locator("#count").inner_text()
    page.select_option("#problem", "")
    pair = f"{rows[0]['decision_language']} → {rows[0]['headnote_language']}"
    page.select_option("#pair", pair)
    own = [row for row in rows if f"{row['decision_language']} → {row['headnote_language']}" == pair]
    assert listed(page) == len(own)
    page.select_option("#pair", "")
    for query in ("ANDERS kurz", rows[3]["decision"][200:230], "nirgends-zu-finden", ""):
        page.fill("#search", query)
        expect(page.locator("#rows button")).to_have_count(sum(has(one, query) for one in rows))
    page.fill("#search", "kurz anders")
    expect(page.locator("#headnote")).to_have_text("Kurz und anders.")
    assert page.evaluate("CSS.highlights.get('search').size") >= 1
    page.set_viewport_size({"width": 1400, "height": 300})
    page.fill("#search", next(word for word in rows[4]["decision"].split()[::-1] if len(word) > 9))
    expect(page.locator("#decision")).not_to_have_js_property("scrollTop", 0)
    page.fill("#search", "")
    expect(page.locator("#rows button")).to_have_count(len(rows))
    page.select_option("#order", "lowest")
    assert "Kurz und anders." in page.locator("#rows button").first.inner_text()


def test_a_citation_leads_to_its_places_and_back(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made, {"width": 1400, "height": 500})
    missing = page.locator("#headnote .cite.missing")
    assert missing.all_inner_texts() == ["Art. 999 OR", "E. 47"]
    assert "not in the decision: Art. 999 OR, E. 47" in page.locator("#citations").inner_text()
    link = page.locator("#headnote a.cite").last
    mark = link.get_attribute("data-places").split()[0]
    link.click()
    place = page.locator(f"#mark-{mark}")
    assert "flash" in place.get_attribute("class")
    inside = "node => { const a = node.getBoundingClientRect(), b = document.getElementById('decision')"
    assert place.evaluate(f"{inside}.getBoundingClientRect(); return a.top >= b.top && a.bottom <= b.bottom; }}")
    assert page.locator("#place").inner_text().startswith("Place 1 of ")
    place.click()
    assert page.evaluate("document.activeElement.matches('#headnote a.cite, #reference a.cite')")
    assert page.locator("#linked").is_hidden()


def test_each_number_of_a_list_leads_to_its_own_place(visit: Callable[..., Any], tmp_path: Path) -> None:
    row = sample_rows("train")[0]
    number = next(one for one in row["decision"].split() if one[0].isdigit() and one.count(".") == 1 and len(one) == 3)
    line = predictions_of([row, row])[1] | {"headnote": f"Haftung (E. {number} und 47)."}
    page = visit(page_of([row], [line], tmp_path))
    assert page.locator("#headnote a.cite").all_inner_texts() == [f"E. {number}"]
    assert page.locator("#headnote span.cite.missing").all_inner_texts() == ["47"]
    assert "not in the decision: E. 47" in page.locator("#citations").inner_text()


def test_a_sentence_leads_to_the_considerations_that_support_it(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made)
    link = page.locator("#evidence a.cite").first
    link.click()
    place = page.locator(f"#mark-{link.get_attribute('data-places')}")
    assert place.inner_text().split()[-1] == link.inner_text().split()[0]
    assert "flash" in place.get_attribute("class")
    everything = listed(page)
    page.select_option("#problem", "evidence")
    assert 0 < listed(page) < everything
    assert "no evidence found" in page.locator("#evidence").inner_text()


def test_considerations_are_listed_to_jump_to(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made)
    assert page.locator("#paragraphs h4").all_inner_texts()[-1].lower() == "considerations"
    link = page.locator("#contents a").last
    link.click()
    assert page.evaluate("document.activeElement.textContent") == link.inner_text()


def test_both_headnotes_are_in_sight_and_their_differences_shown(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made)
    bar = page.locator("#marks").bounding_box()
    for name in ("headnote", "reference"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= bar["y"], "in sight, and not below the bar of marks"
    size = "CSS.highlights.get('differences').size"
    assert page.evaluate(size) == 0
    page.keyboard.press("d")
    assert page.evaluate(size) == len("Art 999 OR E 47".split())
    page.click("#differ")
    assert page.evaluate(size) == 0


def compared(rows: list[dict[str, Any]], folder: Path, *more: object) -> Path:
    """The page of two files, the second of which has no fault."""
    files = {"tuned.jsonl": predictions_of(rows), "base.jsonl": predictions_of(rows)}
    files["base.jsonl"][0] |= {"headnote": rows[0]["headnote"], "finish_reason": "stop"}
    named = [part for name, lines in files.items() for part in ("--predictions", save_lines(folder / name, lines))]
    output = folder / "compared.html"
    slds_json("review", *named, "--references", save_lines(folder / "rows.jsonl", rows), "--output", output, *more)
    return output


def test_files_are_compared_in_columns(visit: Callable[..., Any], rows: list[dict[str, Any]], tmp_path: Path) -> None:
    page = visit(compared(rows, tmp_path))
    assert listed(page) == 2 * len(rows)
    assert page.locator(".version h4").all_inner_texts() == ["tuned.jsonl", "base.jsonl"]
    left, right = (box.bounding_box() for box in page.locator(".version").all())
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]
    page.locator(".version.other button").click()
    assert page.locator(".version h4").all_inner_texts() == ["base.jsonl", "tuned.jsonl"]
    assert chosen(page) == 1
    page.locator(".version.other a.cite").first.click()
    assert page.locator("#linked").is_visible()
    page.keyboard.press("1")
    with page.expect_download() as download:
        page.click("#export")
    assert download.value.suggested_filename.endswith(".marks.json")
    marks = tmp_path / "marks.json"
    download.value.save_as(marks)
    (mark,) = json.loads(marks.read_text(encoding="utf-8"))["marks"]
    assert (mark["predictions"], mark["mark"]) == ("base.jsonl", "good")
    page = visit(compared(rows, tmp_path, "--force", "--marks", marks))
    page.locator("#rows button").nth(1).click()
    assert page.locator("#others li").all_inner_texts() == ["marks: good"]


def test_a_blind_comparison_hides_the_names_and_reveals_them_in_the_export(
    visit: Callable[..., Any], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    page = visit(compared(rows, tmp_path, "--blind", 3))
    shown = page.locator("body").inner_text() + page.title()
    assert "tuned" not in shown
    assert "base.jsonl" not in shown
    assert sorted(page.locator(".version h4").all_inner_texts()) == ["A", "B"]
    for _ in range(2 * len(rows)):
        page.keyboard.press("1")
        page.keyboard.press("j")
    with page.expect_download() as download:
        page.click("#export")
    marks = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))["marks"]
    drawn = {mark["predictions"] for mark in marks if mark["shown_as"] == "A"}
    assert drawn == {"tuned.jsonl", "base.jsonl"}, "the order is drawn for each row"
    assert all(mark["shown_as"] in "AB" for mark in marks)


def test_the_page_speaks_the_readers_language(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made, locale="de-CH")
    assert page.locator("h1").inner_text() == "Regesten zum Prüfen"
    assert "2 nicht gefunden" in page.locator("#rows button").first.inner_text()
    page.select_option("#language", "fr")
    assert page.locator("h1").inner_text() == "Regestes à examiner"
    assert "pas dans l'arrêt: Art. 999 OR, E. 47" in page.locator("#citations").inner_text()
    page.reload()
    assert page.evaluate("document.documentElement.lang") == "fr", "it is remembered"
    for language in ("it", "en"):
        page.select_option("#language", language)
        page.locator("#rows button").nth(1).click()
        assert "undefined" not in page.locator("body").inner_text()


def test_calm_states_margins_links_and_figures(visit: Callable[..., Any], tmp_path: Path) -> None:
    decision = "Erwägungen: 1. Nach Art. 41 BGE 148 III 30 S. 31 Abs. 1 OR haftet er. BGE 148 III 30 S. 32 2. Ende."
    row = sample_rows("train")[0] | {
        "decision": decision, "decision_language": "de", "headnote_language": "de", "year": 2022,
        "headnote": "Art. 41 Abs. 1 OR; Art. 8 ZGB.", "url": "https://www.bger.ch/a?b=1&c=2",
    }  # fmt: skip
    line = predictions_of([row, row])[1] | {"headnote": "Art. 41 Abs. 1 OR; Art. 8 ZGB und Art. 9 BV."}
    page = visit(page_of([row], [line], tmp_path))
    assert page.locator("#headnote .cite.official").all_inner_texts() == ["Art. 8 ZGB"]
    assert page.locator("#headnote .cite.missing").all_inner_texts() == ["Art. 9 BV"]
    assert "but in the official headnote: Art. 8 ZGB" in page.locator("#citations").inner_text()
    assert page.locator("#reference .cite.missing").count() == 0
    assert "1 not found" in page.locator("#rows button").inner_text()
    assert page.locator("#paragraphs .page").all_inner_texts() == ["S. 31", "S. 32"]
    assert page.locator("#paragraphs .page").first.evaluate("node => getComputedStyle(node).float") == "inline-end"
    assert page.locator("#paragraphs a.mark").first.inner_text().split() == ["Art.", "41", "Abs.", "1", "OR"]
    assert page.locator("#court").get_attribute("href") == row["url"]
    assert page.locator("#figures").is_hidden()
    page.locator("summary").click()
    assert "tokens read" in page.locator("#figures").inner_text()


def test_the_first_row_is_open_after_sorting(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made)
    page.select_option("#order", "lowest")
    assert chosen(page) == 0
    assert page.locator("#headnote").inner_text() == "Kurz und anders."


def test_the_bar_of_marks_stays_on_a_phone(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made, NARROW)
    page.locator("#rows button").first.click()
    for place in ("0", "document.body.scrollHeight"):
        page.evaluate(f"scrollTo(0, {place})")
        bar = page.locator("#marks").bounding_box()
        assert bar["y"] + bar["height"] <= NARROW["height"] + 1


def test_keys_move_mark_and_help(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made)
    press = page.keyboard.press
    for key, expected in (("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0), ("k", 0)):
        press(key)
        assert chosen(page) == expected
    press("1")
    assert marked(page) == ["good"]
    press("3")
    assert marked(page) == ["unsure"]
    press("3")
    assert marked(page) == []
    press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("j2")
    assert page.input_value("#search") == "j2"
    press("Escape")
    page.fill("#search", "")
    page.locator("#search").blur()
    press("?")
    assert page.locator("#help").is_visible()
    assert page.evaluate("document.activeElement.id") == "close"
    page.uncheck("#single-keys")
    press("Escape")
    assert page.locator("#help").is_hidden()
    press("2")
    assert marked(page) == [], "single keys are off"


def test_a_field_used_while_the_page_loads_is_left_alone(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made)
    page.add_init_script("addEventListener('DOMContentLoaded', () => document.getElementById('search').focus())")
    page.reload()
    page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    assert page.evaluate("document.activeElement.id") == "search"


def test_marks_stay_and_are_exported(made: Path, visit: Callable[..., Any], rows: list[dict[str, Any]]) -> None:
    page = visit(made)
    page.keyboard.press("2")
    page.keyboard.press("c")
    page.keyboard.type("Art. 999 gibt es nicht; </script> 3 \u202e")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.click("#marks [data-mark=good]")
    page.reload()
    assert marked(page) == ["wrong"]
    assert "2 marked" in page.locator("#summary").inner_text()
    page.select_option("#mark", "none")
    assert listed(page) == len(rows) - 2
    with page.expect_download() as download:
        page.click("#export")
    assert download.value.suggested_filename == "headnotes.marks.json"
    exported = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert exported["predictions"] == "headnotes.jsonl"
    assert len(exported["sha256"]) == 64
    assert [(one["sample_id"], one["lang"], one["mark"], one["comment"]) for one in exported["marks"]] == [
        (
            str(rows[0]["sample_id"]),
            rows[0]["headnote_language"],
            "wrong",
            "Art. 999 gibt es nicht; </script> 3 \u202e",
        ),
        (str(rows[1]["sample_id"]), rows[1]["headnote_language"], "good", ""),
    ]


def test_nothing_is_exported_without_marks(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made)
    page.on("download", lambda _: pytest.fail("there is nothing to export"))
    page.click("#export")
    page.click("#export-csv")
    assert "There are no marks yet" in page.locator("#notice").inner_text()


def test_marks_are_exported_for_a_spreadsheet(
    made: Path, visit: Callable[..., Any], rows: list[dict[str, Any]]
) -> None:
    page = visit(made)
    page.fill("#reviewer", "Anna Bär")
    page.locator("#reviewer").blur()
    page.keyboard.press("2")
    page.fill("#comment", '=1+1; "so"\nnicht')
    with page.expect_download() as download:
        page.click("#export-csv")
    assert download.value.suggested_filename == "headnotes.Anna-Bär.marks.csv"
    with Path(download.value.path()).open(encoding="utf-8-sig", newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["reviewer"], line["mark"], line["comment"]) == ("Anna Bär", "wrong", '\'=1+1; "so"\nnicht')
    assert line["decision_id"] == rows[0]["decision_id"]
    assert line["headnote"] == predictions_of(rows)[0]["headnote"]


def test_marks_come_back_side_by_side_with_the_agreement(
    made: Path, visit: Callable[..., Any], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    page = visit(made)
    files = []
    for name, keys in (("Anna", "1j2j1"), ("Beat", "1j1j1"), ("Carla", "1j1j3")):
        page.evaluate("localStorage.clear()")
        page.reload()
        page.fill("#reviewer", name)
        page.locator("#reviewer").blur()
        for key in keys:
            page.keyboard.press(key)
        with page.expect_download() as download:
            page.click("#export")
        files.append(tmp_path / f"{name}.json")
        download.value.save_as(files[-1])
    predictions = ["review", "--predictions", tmp_path / "headnotes.jsonl", "--references", tmp_path / "rows.jsonl"]
    two = [*predictions, "--output", tmp_path / "two.html", "--marks", files[0], "--marks", files[1]]
    report = slds_json(*two)
    assert report["reviewers"] == ["Anna", "Beat"]
    assert report["agreement"]["headnotes"] == 3
    assert report["agreement"]["percent"] == pytest.approx(100 * 2 / 3)
    assert report["agreement"]["kappa"] == pytest.approx(0.0)
    three = slds(
        *predictions, "--output", tmp_path / "three.html", *(part for one in files for part in ("--marks", one))
    )
    assert "marks of          Anna, Beat, Carla" in three.stdout
    assert "agreement         56 % of the marks of 3 headnotes, α" in three.stdout
    page = visit(tmp_path / "three.html")
    page.locator("#rows button").nth(1).click()
    assert page.locator("#others li").all_inner_texts() == ["Anna: wrong", "Beat: good", "Carla: good"]
    page.select_option("#problem", "disagree")
    assert listed(page) == 2
    other = save_lines(tmp_path / "other.jsonl", predictions_of(rows)[1:])
    refused = slds("review", "--predictions", other, "--output", tmp_path / "x.html", "--marks", files[0])
    assert refused.exit_code == 5
    assert "marks of other predictions than other.jsonl" in refused.stderr


def test_other_predictions_have_marks_of_their_own(
    made: Path, visit: Callable[..., Any], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    page = visit(made)
    page.keyboard.press("1")
    lines = predictions_of(rows)
    lines[0]["headnote"] += " Neu."
    made.unlink()
    page_of(rows, lines, tmp_path)
    page.reload()
    assert marked(page) == []


def test_a_browser_that_keeps_nothing_says_so(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made)
    page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full'); } }")
    page.keyboard.press("1")
    assert "export them before you close" in page.locator("#notice").inner_text()


def test_hostile_and_very_long_decisions_stay_text(visit: Callable[..., Any], tmp_path: Path) -> None:
    decision = HOSTILE * (300_000 // len(HOSTILE) + 1)
    row = {"sample_id": "<b>x</b>", "decision": decision, "decision_language": "de", "headnote_language": "de"}
    line = {"sample_id": "<b>x</b>", "lang": "de", "headnote": HOSTILE, "finish_reason": "stop"}
    page = visit(page_of([row | {"headnote": HOSTILE}], [line], tmp_path))
    shown = HOSTILE.replace("\u202e", "U+202E").replace("\u202c", "U+202C").replace("\u0007", "U+0007")
    assert page.locator("#headnote").evaluate("node => node.textContent") == shown
    assert page.locator("#paragraphs").evaluate(TEXT) == shown * (len(decision) // len(HOSTILE))
    assert page.locator("#name").inner_text() == "<b>x</b>"
    assert page.locator("main script, main img").count() == 0
    assert page.locator("#headnote .control").all_inner_texts() == ["U+202E", "U+202C", "U+0007"]


@pytest.mark.parametrize("size", [WIDE, {"width": 900, "height": 700}, NARROW], ids=["wide", "middle", "narrow"])
def test_nothing_is_wider_than_the_screen(size: dict[str, int], visit: Callable[..., Any], tmp_path: Path) -> None:
    rows = sample_rows("train")
    rows[0]["decision"] += " " + "Donaudampfschifffahrtsgesellschaft" * 20 + " " + "9" * 400
    page = visit(page_of(rows, predictions_of(rows), tmp_path), size)
    wider = "document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(wider)
    page.locator("#rows button").first.click()
    assert page.locator("#headnote").is_visible()
    assert not page.evaluate(wider)
    page.locator("#headnote a.cite").first.click()
    assert not page.evaluate(wider)


def test_a_small_screen_shows_the_list_or_one_headnote(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made, NARROW)
    assert page.locator("#headnote").is_hidden()
    page.locator("#rows button").nth(1).click()
    assert page.locator("#rows").is_hidden()
    assert page.locator("#headnote").inner_text() == "Kurz und anders."
    page.click("#back")
    assert page.locator("#rows").is_visible()
    page.locator("#rows button").first.click()
    page.locator("#headnote a.cite").last.click()
    page.click("#return")
    assert page.evaluate("document.activeElement.matches('#headnote a.cite')")


def test_print_has_the_texts_and_no_tools(made: Path, visit: Callable[..., Any]) -> None:
    page = visit(made, NARROW)
    page.keyboard.press("1")
    page.emulate_media(media="print")
    for name in ("headnote", "reference", "paragraphs", "printed"):
        assert page.locator(f"#{name}").is_visible()
    for name in ("list", "export", "comment"):
        assert page.locator(f"#{name}").is_hidden()
    assert page.locator("#printed").inner_text().endswith("good")


def test_all_that_is_filtered_is_printed(made: Path, visit: Callable[..., Any], rows: list[dict[str, Any]]) -> None:
    page = visit(made)
    page.keyboard.press("2")
    page.select_option("#pair", "fr → de")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    printed = page.locator("#paper > section")
    assert printed.count() == listed(page) > 1
    assert page.locator("main").is_hidden()
    for row in rows:
        if (row["decision_language"], row["headnote_language"]) == ("fr", "de"):
            assert row["headnote"] in page.locator("#paper").evaluate("node => node.textContent")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#paper > section").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_nothing(scheme: str, size: dict[str, int], made: Path, visit: Callable[..., Any]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = visit(made, size, color_scheme=scheme)

    def check() -> None:
        results = axe.Axe().run(page)
        assert results.violations_count == 0, results.generate_report()

    check()
    page.keyboard.press("1")
    page.locator("#rows button").first.click()
    page.locator("#headnote a.cite").last.click()
    page.evaluate("document.getAnimations().forEach((one) => one.finish())")
    check()
    page.click("#keys")
    check()
