"""Lists of citations in pieces: each with its own status, and called as it would be alone."""

from __future__ import annotations

import pytest

from headnote_cli.law.citations import spans
from headnote_cli.review.pieces import pieces


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Art. 86 und 224 StGB", "de", [("Art. 86", "Art. 86 StGB"), ("224 StGB", "Art. 224 StGB")]),
        (
            "art. 973 al. 2 et art. 63 al. 3 CC", "fr",
            [("art. 973 al. 2", "art. 973 al. 2 CC"), ("art. 63 al. 3 CC", "art. 63 al. 3 CC")],
        ),
        (
            "Art. 8, 9 und 29 Abs. 2 und 3 lit. a BV", "de",
            [("Art. 8", "Art. 8 BV"), ("9", "Art. 9 BV"), ("29 Abs. 2", "Art. 29 Abs. 2 BV"),
             ("3 lit. a BV", "Art. 29 Abs. 3 lit. a BV")],
        ),
        ("art. 1er et 999 CO", "fr", [("art. 1er", "art. 1er CO"), ("999 CO", "art. 999 CO")]),
        (
            "Art. 41 Abs. 1 zweiter Satz und Art. 999 OR", "de",
            [("Art. 41 Abs. 1 zweiter Satz", "Art. 41 Abs. 1 zweiter Satz OR"), ("Art. 999 OR", "Art. 999 OR")],
        ),
        ("E. 2a, b und 9c", "de", [("E. 2a", "E. 2a"), ("b", "E. 2b"), ("9c", "E. 9c")]),
        ("Art. 10 bis 12 und 99 OR", "de", [("Art. 10 bis 12", "Art. 10 bis 12 OR"), ("99 OR", "Art. 99 OR")]),
        ("art. 336 à 336d et 999 CO", "fr", [("art. 336 à 336d", "art. 336 à 336d CO"), ("999 CO", "art. 999 CO")]),
        ("Art. 41 und Anhang I FZA", "de", [("Art. 41", "Art. 41 FZA"), ("Anhang I FZA", "Anhang I FZA")]),
        ("BGE 148 III 30, 147 II 5", "de", [("BGE 148 III 30, 147 II 5", "BGE 148 III 30, 147 II 5")]),
        ("Art. 336-336d OR", "de", [("Art. 336-336d OR", "Art. 336-336d OR")]),
    ],
)  # fmt: skip
def test_a_list_is_cut_into_its_citations(text: str, language: str, expected: list[tuple[str, str]]) -> None:
    (span,) = spans(text, language, 2020)
    cut = pieces(text[span.start : span.end], span.citations)
    assert [(text[piece.start : piece.end], piece.whole) for piece in cut] == expected
    assert {citation for piece in cut for citation in piece.citations} == set(span.citations)
