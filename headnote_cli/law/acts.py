"""Federal acts and treaties: their abbreviations in three languages, under one name.

`acts.csv` holds number, German, French and Italian abbreviations as the Classified Compilation of Federal Legislation
(SR/RS, fedlex.admin.ch) and the court use them; the first of several is the common one. The German one names the act.
Former acts have no number. `years` bounds the decisions in which an abbreviation means this act: `LA` was the law on
motor vehicles until 1962 and is that on aviation since.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

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
_PART = re.compile(r"^(?:Anhang \S+|SchlT|SchlB|ÜBest) ")
_TRANSITION = re.compile(r"(?:ÜBest|ÜbBest\.?|[Dd]isp\. tr(?:ans)?\.)\s(?=[A-Z])")
_FINAL = re.compile(r"(?:SchlB|SchlBest\.?|[Dd]isp\. fin\.)\s(?=[A-Z])")
# A cantonal constitution with the canton as an adjective, mostly abbreviated: `Cst. lucern.`, `Cost. ticinese`.
_ADJECTIVES = {
    "AG": "argov argovienne", "BE": "bern bernoise bernese", "FR": "frib fribourg fribourgeoise friborghese",
    "GE": "gen genev genevoise ginev ginevrina", "GL": "glar glaron glaronaise", "GR": "gris grisonne grig grigionese",
    "JU": "jur jura jurassienne", "LU": "luc lucern lucernoise lucernese", "NE": "neuch neuchâtel neuchâteloise",
    "NW": "nidw", "OW": "obw", "SH": "schaffh", "SO": "sol soleur soleuroise", "SZ": "schw schwyz schwytz schwyzoise",
    "TG": "thurg thurgovienne turg", "TI": "tess tessinoise tic ticin ticinese", "UR": "uran uranaise",
    "VD": "vaud vaudoise vodese", "VS": "val valais valaisanne vall vallesana", "ZG": "zoug zougoise",
    "ZH": "zur zurich zurichoise zurighese",
}  # fmt: skip
_CANTONAL_NAMES = {name: f"KV/{canton}" for canton, names in _ADJECTIVES.items() for name in names.split()} | {
    "cant": "KV",
    "cantonale": "KV",
}
_CANTONAL = re.compile(
    r"(?:Cst|Const|Cost)\.\s(?P<adjective>"
    + "|".join(sorted(_CANTONAL_NAMES, key=len, reverse=True))
    + r")(?:\.|(?<=[eoa])(?!\w))"
)
_NUMBERED_ORDINANCE = re.compile(r"(?:Ord|Vo|VO|Verordnung|[Oo]rdonnance)\.?\s(?P<number>[IVX]{1,4})(?!\w)")


class Usage(NamedTuple):
    """Whose abbreviations are read: a text's language, and the year of its decision, None if it is not known."""

    language: str
    year: int | None = None


class Act(NamedTuple):
    """A row of the table: an act, its abbreviations by language, and the decisions in which they mean it."""

    number: str
    name: str
    abbreviations: dict[str, list[str]]
    years: str


@cache
def acts() -> list[Act]:
    """The table."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [
            Act(
                row["sr"],
                row["de"].split("|")[0],
                {language: [name for name in row[language].split("|") if name] for language in LANGUAGES},
                row["years"],
            )
            for row in csv.DictReader(file)
        ]


def _names(language: str, some: Iterable[Act]) -> dict[str, str]:
    """The names of acts by their abbreviations in a language; of one that means several, the last."""
    return {name: act.name for act in some for name in act.abbreviations.get(language, [])}


def _precedence(years: str, year: int | None) -> int:
    """0 for an act of other years, 1 for one of all years, 2 for one of this year."""
    if not years:
        return 1
    first, _, last = years.partition("-")
    return 2 if year is not None and int(first or 0) <= year <= int(last or 9999) else 0


@cache
def _known() -> frozenset[str]:
    return frozenset(act.name for act in acts())


def base(act: str) -> str:
    """The act itself, without annex or final title: `FZA` of `Anhang I FZA`."""
    return _PART.sub("", act)


@cache
def is_known(act: str) -> bool:
    """Whether an act has this one name in all languages; a cantonal law, say, has another in each."""
    parts = base(act).split("/")
    known = _known()
    named = base(act) in known or act.startswith(("VO ", "RL ", "KV/", "Vo "))
    return named or all(part in known for part in parts)


@cache
def treaties() -> frozenset[str]:
    """The names of the treaties: their numbers begin with a zero."""
    return frozenset(act.name for act in acts() if act.number.startswith("0."))


@cache
def _all_names(usage: Usage) -> dict[str, str]:
    """Every abbreviation: as this language means it in that year, else as another does today."""
    in_force = [act for act in acts() if act.number]
    by_year = sorted(acts(), key=lambda act: _precedence(act.years, usage.year))
    others = [_names(language, in_force) for language in reversed(LANGUAGES)]
    return {name: act for names in (*others, _names(usage.language, by_year)) for name, act in names.items()}


@cache
def _long_names(usage: Usage) -> dict[str, list[str]]:
    """Abbreviations of several words by their first in small letters, the longest first: `BVV 2`, `Pacte ONU II`."""
    by_first: dict[str, list[str]] = {}
    for name in sorted(_all_names(usage), key=len, reverse=True):
        if " " in name:
            by_first.setdefault(re.split(r"\W", name)[0].lower(), []).append(name)
    return by_first


def read_act(text: str, start: int, usage: Usage, known: bool = False) -> tuple[str, int] | None:
    """The act that is abbreviated at this place, and where the abbreviation ends; None if there is none.

    A cantonal or otherwise unknown abbreviation stands for itself, unless only known ones are asked for.
    """
    for pattern, title in ((_FINAL_TITLE, "SchlT"), (_TRANSITION, "ÜBest"), (_FINAL, "SchlB")):
        part = pattern.match(text, start)
        if part:
            act = _single(text, part.end(), usage, known)
            return (f"{title} {act[0]}", act[1]) if act else None
    european = _EUROPEAN.match(text, start) if text[start : start + 1] in tuple("RVDdr") else None
    if european:
        kind = "RL" if european["directive"] else "VO"
        return f"{kind} {''.join(european['number'].split())}", european.end()
    cantonal = _CANTONAL.match(text, start)
    if cantonal:
        return _CANTONAL_NAMES[cantonal["adjective"]], cantonal.end()
    ordinance = _NUMBERED_ORDINANCE.match(text, start)
    if ordinance:  # of the law on health insurance of 1911, which had ten
        return f"Vo {ordinance['number']}", ordinance.end()
    return _long(text, start, usage) or _single(text, start, usage, known)


def _long(text: str, start: int, usage: Usage) -> tuple[str, int] | None:
    word = _FIRST_WORD.match(text, start)
    for name in _long_names(usage).get(word[0].lower(), []) if word else []:
        end = start + len(name)
        if text[start:end].lower() == name.lower() and not text[end : end + 1].isalnum():
            return _all_names(usage)[name], end
    return None


def _single(text: str, start: int, usage: Usage, known: bool) -> tuple[str, int] | None:
    match = _WORD.match(text, start)
    if match is None:
        return None
    full = match[0].rstrip("'’-/")
    canton = _CANTON.match(text, start + len(full))  # "LAN/ TI"
    if canton and _is_abbreviation(full) and (name := name_of(f"{full}/{canton['canton']}", usage)):
        return name, canton.end()
    for word in (full, full.rstrip("."), re.split(r"[/-]", full)[0]):
        name = name_of(word, usage)
        if name:  # of `KG-Sanktionsverordnung` another act is meant
            return None if _COMPOUND.match(full, len(word)) else (name, start + len(word))
    word = full.rstrip(".")
    return (word, start + len(word)) if _is_abbreviation(word) and not known else None


def name_of(abbreviation: str, usage: Usage) -> str | None:
    """The one name of an act by its abbreviation in a language: `CO` is `OR`, `aCO` too, `Cst./GE` is `KV/GE`."""
    names = _all_names(usage)
    if abbreviation in names:
        return names[abbreviation]
    former = _FORMER.match(abbreviation)
    if former:
        return name_of(abbreviation[1:], usage)
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
