"""The page of `slds review`: its size, how long it takes to write, and to open in a headless Chromium.

    python benchmarks/review.py --data FOLDER [--rows 200] [--rounds 5]

FOLDER holds files of rows (`test.jsonl`, `train.jsonl.gz` …); the reference headnotes stand in for generated ones.
Opening ends when the first decision is laid out; moving on is the median of a key that goes to the next headnote.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from headnote_cli.data.row_files import SUFFIXES, stream_rows
from headnote_cli.data.sources import sound
from headnote_cli.generation.predictions import join
from headnote_cli.review.page import build

LAID_OUT = "document.getElementById('paragraphs').getBoundingClientRect().height > 0 && performance.now()"


def rows_of(folder: Path, count: int) -> list[dict[str, Any]]:
    """The first rows of a folder's files, whole files in the order of their names, each sample once."""
    files = [file for file in sorted(folder.iterdir()) if file.name.endswith(SUFFIXES)]
    rows = (sound(row) for file in files for _, row in stream_rows(file))
    return list(itertools.islice(({**row, "sample_id": number} for number, row in enumerate(rows)), count))


def written(rows: list[dict[str, Any]], file: Path) -> tuple[dict[str, int], float]:
    """What the page shows, counted, and the seconds that it took."""
    predictions = [
        {"sample_id": row["sample_id"], "lang": row["headnote_language"], "headnote": row["headnote"]} for row in rows
    ]
    began = time.perf_counter()
    html, counts = build(join(predictions, rows).pairs, "decision", "predictions.jsonl", "0" * 64)
    file.write_text(html, encoding="utf-8")
    return counts, time.perf_counter() - began


def opened(file: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds to open the page, each time anew, and to go from one headnote to the next."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    opening, moving = [], []
    with sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        for _ in range(rounds):
            browser = playwright.chromium.launch(executable_path=chromium, args=root)
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            tab.goto(file.as_uri())
            opening.append(float(tab.evaluate(LAID_OUT)))
            for _ in range(20):
                moving.append(float(tab.evaluate(MOVE)))
            browser.close()
    return opening, moving


MOVE = """() => {
  const began = performance.now();
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "j", bubbles: true }));
  document.getElementById("paragraphs").getBoundingClientRect();
  return performance.now() - began;
}"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = rows_of(options.data, options.rows)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "review.html"
        counts, seconds = written(rows, file)
        print(f"{counts['rows']} headnotes of {counts['decisions']} decisions: {file.stat().st_size / 1e6:.2f} MB")
        print(f"written in {seconds:.2f} s")
        opening, moving = opened(file, options.rounds)
    print(f"opened in {statistics.median(opening):.0f} ms (median of {options.rounds}; most {max(opening):.0f} ms)")
    print(f"the next headnote in {statistics.median(moving):.0f} ms (most {max(moving):.0f} ms)")


if __name__ == "__main__":
    main()
