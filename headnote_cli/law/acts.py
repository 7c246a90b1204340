"""Federal acts and treaties: their abbreviations in three languages, under one name.

`acts.csv` holds number, German, French and Italian abbreviations as the Classified Compilation of Federal Legislation
(SR/RS, fedlex.admin.ch) and the court use them; the first of several is the common one. The German one names the act.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path

from headnote_cli.law.language import LANGUAGES

CANTONS = frozenset("AG AI AR BE BL BS FR GE GL GR JU LU NE NW OW SG SH SO SZ TG TI UR VD VS ZG ZH".split())
TABLE = Path(__file__).with_name("acts.csv")
CONSTITUTION = "BV"

_WORD = re.compile(r"[^\W\d_][\w./'’-]{1,40}")
_FORMER = re.compile(r"[anv](?=[A-ZÄÖÜ])")  # aOR, vCC: the act as it was
_CANTON = re.compile(rf"\s?/\s?(?P<canton>{'|'.join(sorted(CANTONS))})(?!\w)")
_FIRST_WORD = re.compile(r"\w{1,40}")
_NO_ACTS = frozenset(
    "BGE ATF DTF SR RS AS RO RU BBl FF EGMR EuGH CourEDH COVID-19 Covid-19 EU EG EWG CE UE CEE ABl BGBl".split()
)
_COMPOUND = re.compile(r"-[A-ZÄÖÜ]?[^\W\d_A-ZÄÖÜ]{4}")
_ROMAN = re.compile(r"[IVX]+")
# Regulations and directives of the European Union go by their number.
_EUROPEAN = re.compile(
    r"(?P<directive>Richtlinie|RL|[Dd]irective|[Dd]irettiva)?(?:Verordnung|VO|[Rr]èglement|[Rr]egolamento)?"
    r"\s?(?:[(\[](?:EG|EU|EWG|CE|UE|CEE)[)\]]\s)?(?:(?:Nr\.|n°|n\.|no)\s?)?(?P<number>\d{1,4}\s?/\s?\d{1,4})\b"
)
_FINAL_TITLE = re.compile(r"(?:SchlT|SchlTit\.?|[Tt]it\. fin(?:al\b|\.))\s(?=ZGB|CC)")
_PART = re.compile(r"^(?:Anhang \S+|SchlT|ÜBest) ")
_TRANSITION = re.compile(r"(?:ÜBest|ÜbBest\.?|[Dd]isp\. trans\.)\s(?=[A-Z])")


@cache
def table() -> dict[str, dict[str, str]]:
    """The name of each act by its abbreviation, for each language."""
    names: dict[str, dict[str, str]] = {language: {} for language in LANGUAGES}
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for language in LANGUAGES:
                for name in filter(None, row[language].split("|")):
                    names[language][name] = row["de"].split("|")[0]
    return names


@cache
def numbers() -> dict[str, str]:
    """The number in the Classified Compilation of each act that has one, by its name."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {row["de"].split("|")[0]: row["sr"] for row in csv.DictReader(file) if row["sr"]}


def base(act: str) -> str:
    """The act itself, without annex or final title: `FZA` of `Anhang I FZA`."""
    return _PART.sub("", act)


@cache
def is_known(act: str) -> bool:
    """Whether an act has this one name in all languages; a cantonal law, say, has another in each."""
    parts = base(act).split("/")
    known = table()["de"].values()
    return base(act) in known or act.startswith(("VO ", "RL ", "KV/")) or all(part in known for part in parts)


@cache
def treaties() -> frozenset[str]:
    """The names of the treaties: their numbers begin with a zero."""
    return frozenset(name for name, number in numbers().items() if number.startswith("0."))


@cache
def _all_names(language: str) -> dict[str, str]:
    """Every abbreviation: as this language means it, else as another does."""
    merged: dict[str, str] = {}
    for other in (*reversed(LANGUAGES), language):
        merged |= table().get(other, {})
    return merged


@cache
def _long_names(language: str) -> dict[str, list[str]]:
    """Abbreviations of several words by their first in small letters, the longest first: `BVV 2`, `Pacte ONU II`."""
    by_first: dict[str, list[str]] = {}
    for name in sorted(_all_names(language), key=len, reverse=True):
        if " " in name:
            by_first.setdefault(re.split(r"\W", name)[0].lower(), []).append(name)
    return by_first


def read_act(text: str, start: int, language: str, known: bool = False) -> tuple[str, int] | None:
    """The act that is abbreviated at this place, and where the abbreviation ends; None if there is none.

    A cantonal or otherwise unknown abbreviation stands for itself, unless only known ones are asked for.
    """
    for pattern, title in ((_FINAL_TITLE, "SchlT"), (_TRANSITION, "ÜBest")):
        part = pattern.match(text, start)
        if part:
            act = _single(text, part.end(), language, known)
            return (f"{title} {act[0]}", act[1]) if act else None
    european = _EUROPEAN.match(text, start) if text[start : start + 1] in tuple("RVDdr") else None
    if european:
        kind = "RL" if european["directive"] else "VO"
        return f"{kind} {''.join(european['number'].split())}", european.end()
    return _long(text, start, language) or _single(text, start, language, known)


def _long(text: str, start: int, language: str) -> tuple[str, int] | None:
    word = _FIRST_WORD.match(text, start)
    for name in _long_names(language).get(word[0].lower(), []) if word else []:
        end = start + len(name)
        if text[start:end].lower() == name.lower() and not text[end : end + 1].isalnum():
            return _all_names(language)[name], end
    return None


def _single(text: str, start: int, language: str, known: bool) -> tuple[str, int] | None:
    match = _WORD.match(text, start)
    if match is None:
        return None
    full = match[0].rstrip("'’-/")
    canton = _CANTON.match(text, start + len(full))  # "LAN/ TI"
    if canton and _is_abbreviation(full) and (name := name_of(f"{full}/{canton['canton']}", language)):
        return name, canton.end()
    for word in (full, full.rstrip("."), re.split(r"[/-]", full)[0]):
        name = name_of(word, language)
        if name:  # of `KG-Sanktionsverordnung` another act is meant
            return None if _COMPOUND.match(full, len(word)) else (name, start + len(word))
    word = full.rstrip(".")
    return (word, start + len(word)) if _is_abbreviation(word) and not known else None


def name_of(abbreviation: str, language: str) -> str | None:
    """The one name of an act by its abbreviation in a language: `CO` is `OR`, `aCO` too, `Cst./GE` is `KV/GE`."""
    names = _all_names(language)
    if abbreviation in names:
        return names[abbreviation]
    former = _FORMER.match(abbreviation)
    if former:
        return name_of(abbreviation[1:], language)
    *first, last = re.split(r"[/-]", abbreviation)
    if last in CANTONS and len(first) == 1:
        name = names.get(first[0], first[0])
        return f"{'KV' if name in (CONSTITUTION, 'KV', 'Const.') else name}/{last}"
    parts = [names.get(part) for part in abbreviation.split("/")]
    return "/".join(part for part in parts if part) if len(parts) > 1 and all(parts) else None


def _is_abbreviation(word: str) -> bool:
    """Two capitals and no Roman number: `PolG`, `LTras`, but not `Bundesgericht` or `II`."""
    capitals = sum(letter.isupper() for letter in word)
    return capitals > 1 and word not in _NO_ACTS and _ROMAN.fullmatch(word) is None
