"""Federal acts and treaties by their titles: `Art. 17 des ETH-Gesetzes`, `art. 17 de la loi sur les EPF`.

`titles.csv` holds the titles of the Classified Compilation of Federal Legislation (fedlex.admin.ch, February 2026). A
title in a text counts if it is whole and says which act is meant: by the act's date; without one, by a word that only a
federal act or a treaty has, in a decision that is younger than the act. Cantons have a `Steuergesetz`, too. `names.csv`
holds what codes and treaties are called besides, at any time.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from headnote_cli.law.acts import Usage, acts, name_of
from headnote_cli.law.language import LANGUAGES

TABLE = Path(__file__).with_name("titles.csv")
NAMES = Path(__file__).with_name("names.csv")
MONTHS = (
    "Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember|janvier|février|mars|avril|mai"
    "|juin|juillet|août|septembre|octobre|novembre|décembre|gennaio|febbraio|marzo|aprile|maggio|giugno|luglio|agosto"
    "|settembre|ottobre|novembre|dicembre"
)
DATE = re.compile(
    rf"(?:vom|du|del|dell['’])\s?(?P<day>\d{{1,2}})(?:\.|\s?er|°|o)?\s?(?P<month>{MONTHS})\s(?P<year>\d{{4}})(?!\d)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_BRACKETS = re.compile(r"[()]")
_BETWEEN = re.compile(r"[\s,'’]{0,4}")
_ABBREVIATED = {"LF": "loi fédérale", "BG": "bundesgesetz", "BB": "bundesbeschluss", "AF": "arrêté fédéral"}
_ENDING = re.compile(r"(?<=\w{4})(?:es|en|er|em|s|e|n)$")  # German cases: `Bundesgesetzes`, `Europäischen`
_BRACKET = re.compile(r"\s*\(((?:[^()]|\([^()]*\))*)\)\s*$")
_FEDERAL = re.compile(r"\b(?:bundes|eidgen|schweiz|fédéra|federa|suisse|svizzer|confédér|confeder)", re.IGNORECASE)
_CAPITALS = re.compile(r"\b[A-Z]{2,}")  # `loi sur les EPF`, `ETH-Gesetz`
# A word behind a code that makes it another one: `code civil français`, `Obligationenrecht des Kantons …`.
_FOREIGN = re.compile(
    r"\s(?:du canton|del Cantone|des Kantons|cantonal|allemand|espagnol|spagnolo|tedesco|greco|belge|russe|turc"
    r"|\w+(?:ais|iens?|ois|ains?|lin|pin|rque|ano|ese|ino|iaco)(?!\w))"
)
_LONGEST = 60  # words of a title
# What a text itself says that an abbreviation means: `(OCSP; RS 120.4)`.
_DEFINED = re.compile(r"(?<=[(\s])(?P<act>[^\W\d][\w.-]{1,20})[;,]\s(?:SR|RS)\s(?P<number>\d[\d.]*\d)(?=[\s;)])")


class _Title(NamedTuple):
    act: str
    date: str  # of the act, `1991-10-04`; empty for a name of all times
    federal: bool


def day_of(date: re.Match[str]) -> str:
    """`1991-10-04` of `vom 4. Oktober 1991`."""
    month = MONTHS.lower().split("|").index(date["month"].lower()) % 12 + 1
    return f"{date['year']}-{month:02}-{int(date['day']):02}"


def read_title(text: str, start: int, usage: Usage) -> tuple[str, int] | None:
    """The act whose title stands at this place, and where the title ends; None if there is none, or more than one."""
    titles = _titles(usage.language)
    words, ends, date = _words(text, start)
    for count in range(len(words), 0, -1):
        some = titles.get(tuple(words[:count]))
        if some:
            day = date[1] if date and date[0] <= count else ""
            meant = {title.act for title in some if _is_meant(title, day, usage.year)}
            end = ends[count - 1]
            return (meant.pop(), end) if len(meant) == 1 and not _FOREIGN.match(text, end) else None
    return None


@cache
def titles_of(act: str, language: str) -> list[str]:
    """What an act is called beside its abbreviation: its title with and without date, and short ones."""
    numbers = {row.number for row in acts() if row.name == act and row.number}
    forms = [form for row in _rows(TABLE) if row["sr"] in numbers for form in _forms(row[language])]
    forms += [name for row in _rows(NAMES) if row["act"] == act for name in row[language].split("|")]
    return list(dict.fromkeys([*forms, *(re.sub(r"\s+", " ", DATE.sub("", form)).strip() for form in forms)]))


@cache
def names_at_any_time(language: str) -> list[tuple[str, ...]]:
    """The words without their endings of the titles that need neither a date nor a word of the Confederation to say
    which act they are: those of codes and treaties."""
    treaties = (form for row in _rows(TABLE) if row["sr"].startswith("0.") for form in _forms(row[language]))
    names = (name for row in _rows(NAMES) for name in row[language].split("|"))
    keys = {_key(name) for name in (*treaties, *names) if not (_FEDERAL.search(name) or _CAPITALS.search(name))}
    return sorted(key for key in keys if key)


@cache
def dates() -> frozenset[str]:
    """The dates of all acts with a title."""
    found = (DATE.search(row[language]) for row in _rows(TABLE) for language in LANGUAGES)
    return frozenset(day_of(date) for date in found if date)


def defined(text: str, usage: Usage) -> dict[str, str]:
    """The acts by abbreviations that mean nothing by themselves, or that of another act, and that the text defines by
    the act's number; only if the act's title has the abbreviation, since numbers are given anew."""
    found: dict[str, str] = {}
    for match in _DEFINED.finditer(text):
        read = name_of(match["act"], usage) or match["act"]
        act = _abbreviated(usage.language).get((match["number"], match["act"]), read)
        if act != read:
            found[read] = act
    return found


def _is_meant(title: _Title, day: str, year: int | None) -> bool:
    if not title.date or day:
        return not title.date or day == title.date
    return title.federal and (year is None or year > int(title.date[:4]) + 1)  # an act is in force a year or two later


def _words(text: str, start: int) -> tuple[list[str], list[int], tuple[int, str] | None]:
    """The words from a place on, in one form; where each ends, with a date right behind it; behind how many words the
    first date stands, and that date."""
    words: list[str] = []
    ends: list[int] = []
    day, at = None, start
    while len(words) < _LONGEST:
        date = None if day else DATE.match(text, at)
        match = date or _WORD.match(text, at)
        if match is None:
            break
        if date:
            day = (len(words), day_of(date))
            ends[-1:] = [date.end()] if ends else []
        else:
            new = _ABBREVIATED.get(match[0], match[0]).lower().split()
            words += [_ENDING.sub("", word) for word in new]
            ends += [match.end()] * len(new)
        at = match.end()
        gap = _BETWEEN.match(text, at)
        at = gap.end() if gap else at
    return words, ends, day


@cache
def _abbreviated(language: str) -> dict[tuple[str, str], str]:
    """The acts by number and by each abbreviation in the brackets behind their title."""
    return {
        (row["sr"], word): _by_number()[row["sr"]]
        for row in _rows(TABLE)
        if (bracket := _BRACKET.search(row[language]))
        for word in re.split(r"[,;]? ", bracket[1])
    }


@cache
def _by_number() -> dict[str, str]:
    return {act.number: act.name for act in acts() if act.number}


@cache
def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def _titles(language: str) -> dict[tuple[str, ...], list[_Title]]:
    """The titles in a language by their words, and the names in brackets behind them."""
    titles: dict[tuple[str, ...], list[_Title]] = {}
    for row in _rows(TABLE):
        date = next((found for code in LANGUAGES if (found := DATE.search(row[code]))), None)
        for title in _forms(row[language]):
            federal = row["sr"].startswith("0.") or bool(_FEDERAL.search(title) or _CAPITALS.search(title))
            named = _Title(_by_number()[row["sr"]], day_of(date) if date else "9999-01-01", federal)
            if key := _key(title):
                titles.setdefault(key, []).append(named)
    for row in _rows(NAMES):
        for name in row[language].split("|"):
            titles[_key(name)] = [_Title(row["act"], "", True)]
    return titles


def _key(title: str) -> tuple[str, ...]:
    """A title's words; none if a sign stands among them that a text would not repeat."""
    words, ends, _ = _words(_BRACKETS.sub(" ", title), 0)
    return tuple(words) if ends and ends[-1] >= len(title.rstrip(" .)")) else ()


def _forms(title: str) -> list[str]:
    """A title, and the short ones in brackets behind it: `(Loi sur les EPF)`, `(Arbeitsgesetz, ArG)`."""
    bracket = _BRACKET.search(title)
    short = re.split(r"[,;] ", bracket[1]) if bracket else []
    names = [name for name in short if re.search(r"[a-zäöü]{4}", name) and not re.match("mit |avec |con ", name)]
    return [form for form in (title[: bracket.start()] if bracket else title, *names) if form]
