"""Citations in three languages: found, brought to one form, and looked up in the decision.

Abbreviations of the federal acts: the titles in the Classified Compilation of Federal Legislation (SR/RS).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# German, French, Italian abbreviation of the same act; the first is the common form.
ACTS = """
OR CO CO|ZGB CC CC|StGB CP CP|BV Cst. Cost.|BGG LTF LTF|SchKG LP LEF|ZPO CPC CPC|StPO CPP CPP|EMRK CEDH CEDU
IVG LAI LAI|AHVG LAVS LAVS|ATSG LPGA LPGA|UVG LAA LAA|KVG LAMal LAMal|BVG LPP LPP|AVIG LACI LADI|ELG LPC LPC
SVG LCR LCStr|RPG LAT LPT|USG LPE LPAmb|AIG LEI LStrI|AsylG LAsi LAsi|VwVG PA PA|DBG LIFD LIFD|StHG LHID LAID
MWSTG LTVA LIVA|KG LCart LCart|UWG LCD LCSl|URG LDA LDA|MSchG LPM LPM|PatG LBI LBI|VVG LCA LCA|VStG LIA LIP
FINMAG LFINMA LFINMA|BankG LB LBCR|GwG LBA LRD|BEG LTI LTCo|BetmG LStup LStup|JStG DPMin DPMin|JStPO PPMin PPMin
IPRG LDIP LDIP|GBV ORF ORF|VMWG OBLF OLAL|ArG LTr LL|DSG LPD LPD|BGFA LLCA LLCA|OHG LAVI LAV|StBOG LOAP LOAP
VRV OCR ONC|IVV OAI OAI|AHVV RAVS OAVS|RPV OAT OPT|VGG LTAF LTAF|BGBB LDFR LDFR|FZA ALCP ALC|BÜPF LSCPT LSCPT
"""
COMMON_FORM = {name: group.split()[0] for group in re.split(r"[|\n]", ACTS.strip()) for name in group.split()}

_NUMBER = r"\d+(?:[a-z](?![a-z]))?(?:bis|ter|quater|quinquies|sexies|septies|octies)?"
_PART = r"(?:Abs|al|cpv|lit|let|lett|Ziff|ch|n|Satz|phr|per|Bst)\.?\s*(?:\d+[a-z]?|[a-z])(?:bis|ter)?\b"
# "Abs. 1 und 2": a lone digit that no paragraph of its own follows is one more paragraph.
_PART += r"(?:\s*(?:,|und|et|e|ou|oder|o)\s*[1-9](?!\w)(?!\s*(?:Abs|al|cpv)\b))*"
_ITEM = rf"{_NUMBER}(?:\s*{_PART})*(?:\s*(?:ff?|ss|segg?)\.?)?"
_JOIN = (
    r"\s*(?:,|;|und|et|e|sowie|ainsi que|nonché|come pure|ou|oder|o|bis|à|a|-|–|i\.?\s?V\.?\s?m\.?|en relation avec"
    r"|in relazione con)\s*(?:[Aa]rt\.\s*)?"
)
_MORE = rf"(?:{_JOIN}(?:{_PART}|{_ITEM}))*"
_ACT = r"(?:{})(?![A-Za-zÀ-ÿ])".format("|".join(re.escape(name) for name in sorted(COMMON_FORM, key=len, reverse=True)))
_ARTICLES = re.compile(rf"\b[Aa]rt\.\s*({_ITEM}{_MORE})\s+({_ACT})")
_CONSIDERATIONS = re.compile(
    r"(?:\bE\.|\bconsid\.|\bc\.(?=\s*\d))\s*((?:\d+(?:\.\d+)*[a-z]{0,2})(?:(?:\s*(?:,|-|–|und|et|e)\s*)\d+(?:\.\d+)*[a-z]{0,2})*)"
)
_LEADING = re.compile(r"\b(?:BGE|ATF|DTF)\s+(\d+)\s+(Ia|Ib|I|II|III|IV|V)\s+(\d+)")
_DOCKET = re.compile(r"\b(\d[A-Z]_\d+/\d{4})\b")


@dataclass(frozen=True)
class Citation:
    """A citation in its common form: `Art. 41 OR`, `E. 2.3`, `BGE 148 III 30`, `4A_123/2021`."""

    kind: str
    text: str


def citations(text: str) -> list[Citation]:
    """The citations of a text in order, each once."""
    return list(dict.fromkeys(citation for _, citation in sorted(_all(text), key=lambda pair: pair[0])))


def _all(text: str) -> Iterator[tuple[int, Citation]]:
    for match in _ARTICLES.finditer(text):
        bare = re.sub(rf"\s*{_PART}", "", match[1])
        for number in re.findall(_NUMBER, bare):
            yield match.start(), Citation("article", f"Art. {number} {COMMON_FORM[match[2]]}")
    for match in _CONSIDERATIONS.finditer(text):
        if _LEADING.search(text, max(0, match.start() - 30), match.start()) is None:  # not another decision's own
            for number in re.findall(r"\d+(?:\.\d+)*[a-z]{0,2}", match[1]):
                yield match.start(), Citation("consideration", f"E. {number}")
    for match in _LEADING.finditer(text):
        yield match.start(), Citation("decision", f"BGE {match[1]} {match[2]} {match[3]}")
    for match in _DOCKET.finditer(text):
        yield match.start(), Citation("docket", match[1])


def unsupported(headnote: str, decision: str) -> list[Citation]:
    """The citations of a headnote that the decision does not contain."""
    cited = {citation.text for citation in citations(decision)}
    return [
        citation
        for citation in citations(headnote)
        if citation.text not in cited
        and not (citation.kind == "consideration" and _has_consideration(citation.text, decision))
    ]


def _has_consideration(citation: str, decision: str) -> bool:
    """Whether the decision has a consideration of that number: `2.3`, `2.3.`, or in older ones `4.` with `a)`."""
    number = citation.removeprefix("E. ")
    letter = re.fullmatch(r"(\d+)([a-z]{1,2})", number)
    if letter:
        main = re.search(rf"(?<![\w.]){letter[1]}\.?[\s-]", decision)
        return main is not None and re.search(rf"(?<!\w){letter[2]}\)", decision[main.start() :]) is not None
    return re.search(rf"(?<![\w./-]){re.escape(number)}\.?(?=\s)", decision) is not None
