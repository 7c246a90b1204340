"""Federal acts and treaties: their abbreviations in three languages, under one name.

`acts.csv` holds number, German, French and Italian abbreviations as the Classified Compilation of Federal Legislation
(SR/RS, fedlex.admin.ch) and the court use them; the first of several is the common one. The German one names the act.
Most former acts have no number. `years` bounds the decisions in which an abbreviation means this act: `LA` was the law
on motor vehicles until 1962 and is that on aviation since. `-` stands for none: an abbreviation of three letters, or of
several acts, may mean a cantonal one, and is read only where the text says what it means: `(OMO; RS 211.432.2)`.
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
_FINAL_TITLE = re.compile(
    r"(?:SchlT|SchlTit\.?|Schlusstitels?\s(?:des|zum)|[Tt]it\. fin(?:al\b|\.)|[Tt]itre final(?: du)?"
    r"|[Tt]itolo finale(?: del)?)\s(?=ZGB|CC)"
)
_PART = re.compile(r"^(?:Anhang \S+|SchlT|SchlB|ÜBest) ")
_TRANSITION = re.compile(r"(?:ÜBest|ÜbBest\.?|[Dd]isp\. tr(?:ans)?\.)\s(?=[A-Z])")
_FINAL = re.compile(r"(?:SchlB|SchlBest\.?|[Dd]isp\. fin\.)\s(?=[A-Z])")
# A canton as an adjective, often abbreviated, behind an act in French and Italian, before it in German: `Cst. lucern.`,
# `CPC vaudois`, `Obwaldner KV`. Those of Basel, and `cantonal`, do not say which canton.
_ADJECTIVES = {
    "AG": "argovienne argoviese", "BE": "bernoise bernese", "FR": "fribourgeoise friborghese",
    "GE": "genevoise ginevrina ginevrino", "GL": "glaronaise glaronese", "GR": "grisonne grigionese",
    "JU": "jurassienne giurassiana giurassiano", "LU": "lucernoise lucernese", "NE": "neuchâteloise neocastellana",
    "NW": "nidwaldienne nidwaldese", "OW": "obwaldienne obwaldese", "SG": "saint-galloise sangallese",
    "SH": "schaffhousoise sciaffusana", "SO": "soleuroise solettese", "SZ": "schwyzoise schwytzoise svittese",
    "TG": "thurgovienne turgoviese", "TI": "tessinoise ticinese", "UR": "uranaise urana", "VD": "vaudoise vodese",
    "VS": "valaisanne vallesana vallesano", "ZG": "zougoise zugana", "ZH": "zurichoise zurighese",
    "": "bâloise basilese cantonale",
}  # fmt: skip
_GERMAN_ADJECTIVES = {  # the beginnings of them
    "aargau": "AG", "innerrhod": "AI", "ausserrhod": "AR", "bern": "BE", "basellandschaft": "BL", "baselstädt": "BS",
    "freiburg": "FR", "genf": "GE", "glarn": "GL", "bündn": "GR", "jurass": "JU", "luzern": "LU", "neuenburg": "NE",
    "nidwald": "NW", "obwald": "OW", "st. gall": "SG", "schaffhaus": "SH", "solothurn": "SO", "schwyz": "SZ",
    "thurgau": "TG", "tessin": "TI", "urn": "UR", "waadtländ": "VD", "wallis": "VS", "zug": "ZG", "zürch": "ZH",
}  # fmt: skip
_CANTON_BEFORE = re.compile(
    rf"(?P<stem>{'|'.join(_GERMAN_ADJECTIVES)})(?:n?er|er?isch\w{{0,2}}|n?isch\w{{0,2}}|lich\w{{0,2}})\s(?=[A-Z]\w*[A-Z])",
    re.IGNORECASE,
)
_CANTON_BEHIND = re.compile(r"\s(?P<word>[a-zà-ÿ-]{3,14})(?P<dot>\.)?(?!\w)")
_CONSTITUTION = re.compile(r"(?:[Cc]o?n?st\.|[Cc]ost\.|[Cc]onstitution|[Cc]ostituzione)(?=\s)")
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
                _name(row["de"].split("|")[0], row["sr"] if row["years"] == "-" else ""),
                {language: [name for name in row[language].split("|") if name] for language in LANGUAGES},
                row["years"],
            )
            for row in csv.DictReader(file)
        ]


def _name(german: str, number: str) -> str:
    """`VAV (SR 211.432.2)` for an act whose abbreviation may be a canton's, too."""
    return f"{german} (SR {number})" if number and not german.startswith("SR ") else german


def _names(language: str, some: Iterable[Act]) -> dict[str, str]:
    """The names of acts by their abbreviations in a language; of one that means several, the last."""
    return {name: act.name for act in some for name in act.abbreviations.get(language, [])}


def _precedence(act: Act, year: int | None) -> int:
    """-1 for an act that its abbreviation cannot mean, 0 for one of earlier years, 1 for one of all years, 2 for one of
    this year."""
    if not act.years:
        return 1
    first, _, last = act.years.partition("-")
    if act.years == "-" or (first and year is not None and year < int(first)):
        return -1
    return 2 if year is not None and year <= int(last or 9999) else 0


@cache
def abbreviations(act: str, language: str | None = None) -> frozenset[str]:
    """What an act is called in a language; None: in any."""
    languages = LANGUAGES if language is None else (language,)
    rows = [row.abbreviations for row in acts() if row.name == act]
    return frozenset(name for row in rows for language in languages for name in row[language])


def longer_names(name: str, usage: Usage) -> list[str]:
    """What makes an abbreviation that of another act: ` 2` behind `BVV`."""
    return [other[len(name) :] for other in _all_names(usage) if other.startswith(f"{name} ")]


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
    possible = [act for act in acts() if _precedence(act, usage.year) >= 0]
    in_force = [act for act in possible if act.number and not act.years]
    by_year = sorted(possible, key=lambda act: _precedence(act, usage.year))
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
    constitution = _CONSTITUTION.match(text, start)
    canton = _canton_behind(text, constitution.end()) if constitution else None
    if canton:
        return _of_canton("KV", canton[0]), canton[1]
    ordinance = _NUMBERED_ORDINANCE.match(text, start)
    if ordinance:  # of the law on health insurance of 1911, which had ten
        return f"Vo {ordinance['number']}", ordinance.end()
    before = _CANTON_BEFORE.match(text, start)
    if before:
        act = _single(text, before.end(), usage, known=False)
        return (_of_canton(act[0], _GERMAN_ADJECTIVES[before["stem"].lower()]), act[1]) if act else None
    act = _long(text, start, usage) or _single(text, start, usage, known)
    behind = _canton_behind(text, act[1]) if act and "/" not in act[0] else None
    return (_of_canton(act[0], behind[0]), behind[1]) if act and behind else act


@cache
def adjectives() -> dict[str, str]:
    """The cantons by their adjectives, in both genders, and by all that these can be abbreviated to."""
    cantons: dict[str, str] = {}
    for canton, words in _ADJECTIVES.items():
        for word in words.split():
            masculine = re.sub(r"nn?e$", "n", word) if word.endswith("ne") else re.sub(r"e$", "", word)
            cantons |= {word: canton, masculine: canton, word[:-1] + "o": canton}
            cantons |= {f"{word[:length]}.": canton for length in range(3, len(word))}
    return cantons


def _canton_behind(text: str, at: int) -> tuple[str, int] | None:
    """The canton that an adjective behind an act names, empty if it is any, and where the adjective ends."""
    word = _CANTON_BEHIND.match(text, at)
    if word is None:
        return None
    for name, end in ((word["word"] + (word["dot"] or ""), word.end()), (word["word"], word.end("word"))):
        if name in adjectives():
            return adjectives()[name], end
    return None


def _of_canton(act: str, canton: str) -> str:
    """The canton's act of this name: `KV/VD` for `Cst. vaud.`; of a canton that is not named, none, but `KV`."""
    name = "KV" if act == CONSTITUTION else act
    return f"{name}/{canton}" if canton else "KV" if name == "KV" else ""


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
        return _of_canton("KV" if name == "Const." else name, last)
    parts = [names.get(part) for part in abbreviation.split("/")]
    return "/".join(part for part in parts if part) if len(parts) > 1 and all(parts) else None


def _is_abbreviation(word: str) -> bool:
    """Two capitals and no Roman number: `PolG`, `LTras`, but not `Bundesgericht` or `II`."""
    capitals = sum(letter.isupper() for letter in word)
    return capitals > 1 and word not in _NO_ACTS and _ROMAN.fullmatch(word) is None
