"""Citations in three languages: found, brought to one form, and looked up in the decision.

The form is the German one: `Art. 41 Abs. 1 OR` for `art. 41 al. 1 CO` and `art. 41 cpv. 1 CO`. A former version of an
act (`aArt. 5`, `vCC`) counts as the act.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import zip_longest
from typing import Literal

from headnote_cli.law.acts import Usage, abbreviations, base, is_known
from headnote_cli.law.articles import ANCHOR, CitationPath, acts_by_date, read_articles, read_date, read_parts
from headnote_cli.law.document import Consideration, structure
from headnote_cli.law.numbers import BEGINS, FOLLOWING, WHERE, read_numbers
from headnote_cli.law.pages import page_marks, without, year_of
from headnote_cli.law.plain import plain
from headnote_cli.law.titles import defined

CitationKind = Literal["article", "consideration", "decision", "docket", "act"]
Status = Literal["found", "partly", "missing"]

# Of a judgment: its month may be misspelt.
_DATE = (
    r"(?:\s(?:vom|du|del|dell['’])\s?"
    r"\d{1,2}(?:(?:\.|er|\ser|°)?\s\w{3,9}\.?\s\d{4}|\.\s?\d{1,2}\.\s?(?:\d{4}|\d{2})(?!\d)))?"
)
# That a judgment was named before: `précité`, `, déjà cité,`, `(a.a.O.)`, `già citata`.
_AGAIN = (
    r"(?:,?\s\(?(?:[a-zà-ÿ]{2,8}\s){0,2}(?:a\.\s?a\.\s?O\.|op\.\s?cit\.|loc\.\s?cit\.|[Cc]it\.|[Zz]it\."
    r"|(?:pré|sus|pre|sopra|sum|vor|oben)?-?(?:cité|citat|cit|zitiert|erwähnt|genannt|mentionné|menzionat|visé)"
    r"[a-zé]{0,2})(?![\wé])(?:\s(?:ci-dessus|ci-avant|oben|hiervor|sopra))?\)?)?"
)
_DOCKET = (
    r"\d[A-Z](?:_\s?|\.)\d{1,4}/\d{4}|[BCEHIKMPU] \d{1,4}/\d{2}|[A-F]-[1-9]\d{0,4}/20\d{2}"
    r"|[ABCEKP]\.\s?\d{1,4}/(?:19|20)\d{2}"
    r"|(?:BB|BE|BG|BH|BK|BP|BV|CA|CN|CR|RH|RP|RR|SK|SN|TPF)\.20\d{2}\.\d{1,4}"
)
# The official collections: the court's own, those of the Federal Administrative and the Federal Criminal Court.
_COLLECTIONS = {
    "BGE": ("BGE|ATF|DTF|RO|RU", r"\d{1,3}\s(?:I\s?[ab]|III|II|IV|I|V)\s\d{1,4}(?!\d)"),
    "EVGE": ("EVGE|ATFA|STFA", r"19\d{2}\s(?:S|p|pag)\.\s\d{1,4}(?!\w)"),
    "BVGE": ("BVGE|ATAF|DTAF", r"20\d{2}(?:\s(?:VI{0,2}|IV|I{1,3}))?\s?/\s?\d{1,3}(?![\w/])"),
    "TPF": ("TPF", r"20\d{2}\s\d{1,3}(?!\w)"),
}
_JUDGMENT = "|".join(
    [rf"(?:{names})\s(?P<{name}>{number})" for name, (names, number) in _COLLECTIONS.items()]
    + [rf"(?<![/.-])(?P<docket>{_DOCKET})(?!\w)"]
)
_CITED = re.compile(
    r"(?:(?<!\w)|(?<=[a-z])(?=BGE\s))(?=[§A-IKMPR-U\dacn])(?:"  # the first letters spare most of the time
    rf"(?P<article>{ANCHOR})"
    rf"|{WHERE}\s{{0,2}}(?={BEGINS})"
    rf"|{_JUDGMENT}"
    r"|(?:SR|RS)\s?(?P<act>0\.\d{2,3}(?:\.\d{1,3}){0,5}|\d{3}(?:\.\d{1,4}){0,5})(?!\w))"
)
_PINPOINT = re.compile(rf"(?:\s?{FOLLOWING})?{_AGAIN}{_DATE}{_AGAIN}\s?,?\s?{WHERE}\s{{0,2}}(?={BEGINS})")
_PAGE = re.compile(rf"\s(?:S\.|p\.|pag\.)\s?(?P<page>\d{{1,4}})(?:\s?{FOLLOWING})?")
# Whose considerations they are, if another judgment's: `consid. 3.2.2 de l'ATF 140 V 543`. With a page it is where the
# official collection turns one: `E. 4 des BGE 151 II 687 S. 698 angefochtenen Urteils`.
_OF_JUDGMENT = re.compile(
    r"\s(?:(?:von|vom|des|aus|du|de la|del|della)\s|(?:de l|d|dell)['’]\s?)"
    r"(?:(?:[a-zéè.]{1,12}\s){0,2}(?:Urteils?|Entscheids?|arrêts?|sentenza)\s)?"
    rf"(?:{_JUDGMENT})(?!{_PAGE.pattern})"
)
_LITERATURE = re.compile(r"(?:\s[IVX]+)?,?\s(?:pagg?\.|pp?\.|S\.|N\.)\s?\d")  # of a book: `§ 13 VI, pag. 210`
_SECOND_PAGE = re.compile(r"\s?/\s?\d{1,4}(?!\w)")  # `108 Ib 170/71`
# Another one of the volume: `105 Ia 285 consid. 2, 447 consid. 2`.
_NEXT_PAGE = re.compile(
    rf"(?:\s?[;,]\s|\s(?:und|et|ed?)\s)(?P<page>\d{{1,4}})(?=(?:\s?{FOLLOWING})?\s?,?\s{WHERE}\s{{0,2}}{BEGINS})"
)
# Another page without a consideration: `89 I 209 und 279`, `79 I 44 e segg., 153`; not a number of something else.
_BARE_PAGE = re.compile(
    rf"(?:\s?(?:et?\s)?{FOLLOWING}|\sin fine)?(?:\s?[;,]\s|\s(?:und|et|ed?|sowie)\s)(?P<page>\d{{2,3}})"
    rf"(?=(?:\s?(?:et?\s)?{FOLLOWING})?(?:[);]|[.,]\s?(?!\w*\d)|,\s\d{{2,3}}\sI|\s(?:und|et|e|sowie)\s))"
)
# A judgment that goes by its date and parties: `Urteil vom 9. Oktober 1953 i.S. Spillmann Erw. 4`.
_UNNUMBERED = re.compile(
    r"(?:Urteils?|Entscheid(?:e?s)?|[Aa]rrêts?|[Dd]écision|[Ss]entenza)\s[^.;()]{0,60}?(?:vom|du|del|dell['’])\s?\d{1,2}\S*\s\w+\s\d{4}"
    r"[^;()]{0,80}$"
)
_NEXT_DECISION = {
    name: re.compile(rf"(?:\s?(?:et?\s)?{FOLLOWING}|\sin fine)?(?:\s?[;,]\s|\s(?:und|et|ed?)\s)(?P<number>{number})")
    for name, (_, number) in _COLLECTIONS.items()
}
_FF = 10  # `ff.` names no end
NEAR = 400  # characters behind an article, up to the next, where `Abs. 1` alone is one of its paragraphs
_FUNCTION_WORDS = {
    "de": re.compile(r"\b(?:Abs|Ziff|und|der|die|E|BGE)\b"),
    "fr": re.compile(r"\b(?:al|let|et|les?|des|ATF)\b"),
    "it": re.compile(r"\b(?:cpv|lett|e|il|di|della|DTF)\b"),
}


@dataclass(frozen=True)
class Citation:
    """What is cited, in one form for all languages: the levels from the whole to the part, and the act; of an act
    without abbreviation its date, `1994-11-25`, if its title has one."""

    kind: CitationKind
    path: CitationPath
    act: str = ""
    dated: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """`Art. 41 Abs. 1 OR`, `E. 2.3`, `BGE 148 III 30 E. 4`, `4A_123/2021`, `SR 220`."""
        words = [word for level in self.path for word in level] + [self.act]
        return " ".join(filter(None, words))

    @property
    def key(self) -> str:
        """What is equal in every language: an act that the table does not know has another name in each."""
        return self.text if is_known(self.act) else replace(self, act="").text


def citations(text: str, language: str | None = None, year: int | None = None) -> list[Citation]:
    """The citations of a text in order, each once.

    Args:
        language: `de`, `fr` or `it`, which decides what an abbreviation means; None: guessed from the text.
        year: Of the decision, which decides it, too.
    """
    return list(dict.fromkeys(citation for span in spans(text, language, year) for citation in span.citations))


@dataclass(frozen=True)
class Span:
    """A stretch of characters that cites: `Art. 8, 9 und 29 Abs. 2 BV` is one, of three articles."""

    start: int
    end: int
    citations: tuple[Citation, ...]


def spans(text: str, language: str | None = None, year: int | None = None) -> list[Span]:
    """Where a text cites, in order and without overlap; language and year as for `citations`."""
    read = plain(text)
    usage = Usage(language or _guess(read.text), year)
    acts = defined(read.text, usage)
    return [
        Span(*read.place(span.start, span.end), tuple(replace(c, act=acts.get(c.act, c.act)) for c in span.citations))
        for span in _spans(read.text, usage)
    ]


def _guess(text: str) -> str:
    counts = {language: len(words.findall(text, 0, 5000)) for language, words in _FUNCTION_WORDS.items()}
    return max(counts, key=lambda language: counts[language])


def _spans(text: str, usage: Usage) -> Iterator[Span]:
    at = 0
    while match := _CITED.search(text, at):
        cited, at = _read(text, match, usage)
        if cited:
            yield Span(match.start(), at, tuple(cited))


def _read(text: str, match: re.Match[str], usage: Usage) -> tuple[list[Citation], int]:
    """The citations that begin with a match, and where the last one ends."""
    at = match.end()
    if match["article"]:
        articles, at = read_articles(text, at, match["article"], usage)
        if "§" in match["article"] and _LITERATURE.match(text, at):
            return [], at
        dated = "" if all(act for _, act in articles) else read_date(text, at)  # all have one, or none
        return [Citation("article", path, act, dated) for path, act in articles], at
    if match["docket"]:
        return _pinpoints(text, at, *_judgment_of(match))
    if any(match[name] for name in _COLLECTIONS):
        return _decisions(text, at, *_judgment_of(match))
    if match["act"]:
        return [Citation("act", (("SR", match["act"]),))], at
    values, at = read_numbers(text, at)
    of = _OF_JUDGMENT.match(text, at)
    if of is None and _UNNUMBERED.search(text, max(0, match.start() - 200), match.start()):
        return [], at
    if of is None:
        return [Citation("consideration", (("E.", value),)) for value in values], at
    kind, whole = _judgment_of(of)
    return [Citation(kind, (whole, ("E.", value))) for value in values], of.end()


def _judgment_of(match: re.Match[str]) -> tuple[CitationKind, tuple[str, str]]:
    """What kind of judgment is named, and the first level of its citation."""
    if match["docket"]:
        return "docket", ("", re.sub(r"(?<=_)\s", "", match["docket"]))
    name = next(name for name in _COLLECTIONS if match[name])
    return "decision", (name, _number(match[name]))


def _number(number: str) -> str:
    """A number in a collection, `148 III 30`, `2014/26` or `1963 S. 12`, in one form."""
    number = re.sub(r"\s?/\s?", "/", re.sub(r"\s", " ", number))
    return re.sub(r"(?<= I) (?=[ab] )", "", re.sub(r"(?:p|pag)\. ", "S. ", number))


def _pinpoints(text: str, at: int, kind: CitationKind, whole: tuple[str, str]) -> tuple[list[Citation], int]:
    """A judgment with each consideration or the page named right after it, which are not considerations of ours."""
    second = _SECOND_PAGE.match(text, at) if whole[0] == "BGE" else None
    at = second.end() if second else at
    pinpoint = _PINPOINT.match(text, at)
    cited = []
    if pinpoint:
        values, at = read_numbers(text, pinpoint.end())
        cited = [Citation(kind, (whole, ("E.", value))) for value in values]
    page = _PAGE.match(text, at)
    if not pinpoint:
        cited = [Citation(kind, (whole, ("S.", page["page"])) if page else (whole,))]
    return cited, page.end() if page else at


def _decisions(text: str, at: int, kind: CitationKind, whole: tuple[str, str]) -> tuple[list[Citation], int]:
    """The leading decisions of one list: `BGE 148 III 30 E. 2.1 S. 33; 147 II 5`."""
    cited: list[Citation] = []
    while True:
        more, at = _pinpoints(text, at, kind, whole)
        cited += more
        following = _NEXT_DECISION[whole[0]].match(text, at)
        same_volume = _next_page(text, at, whole[1]) if whole[0] == "BGE" else None
        if following:
            whole, at = (whole[0], _number(following["number"])), following.end()
        elif same_volume:
            whole, at = (whole[0], f"{whole[1].rpartition(' ')[0]} {same_volume['page']}"), same_volume.end()
        else:
            return cited, at


def _next_page(text: str, at: int, number: str) -> re.Match[str] | None:
    """Another decision of the same volume, by its page alone."""
    bare = _BARE_PAGE.match(text, at)
    further = bare if bare and int(bare["page"]) > int(number.rpartition(" ")[2]) else None
    return _NEXT_PAGE.match(text, at) or further


@dataclass(frozen=True)
class CheckedCitation:
    """A citation, and whether the decision has it: all of it, a part (the article, another paragraph), or nothing."""

    citation: Citation
    status: Status


def check(
    headnote: str,
    decision: str,
    headnote_language: str | None = None,
    decision_language: str | None = None,
    year: int | None = None,
) -> list[CheckedCitation]:
    """The citations of a headnote in order, each looked up in the decision.

    A consideration is looked up among the decision's own; the rest among what the decision cites.
    """
    cited = cited_by(decision, decision_language, year)
    return [CheckedCitation(c, cited.status(c)) for c in citations(headnote, headnote_language, cited.year)]


@lru_cache(maxsize=1)  # one decision, headnotes in three languages
def cited_by(decision: str, language: str | None, year: int | None = None) -> Cited:
    """What a decision cites, read once for all that is asked of it in a row."""
    return Cited(decision, language, year)


def unsupported(headnote: str, decision: str) -> list[Citation]:
    """The citations of a headnote that the decision does not contain."""
    return [checked.citation for checked in check(headnote, decision) if checked.status == "missing"]


class Cited:
    """What a decision cites, and its own considerations.

    Attributes:
        language: Of the decision: as it is given, else by its commonest words.
        year: Of the decision: as it is given, else by the page marks of the official collection.
    """

    def __init__(self, decision: str, language: str | None = None, year: int | None = None) -> None:
        self.decision = decision
        marks = page_marks(decision, year)
        self.year = year if year is not None else year_of(marks)
        self._plain = plain(without(decision, marks))
        text = self._plain.text
        self.language = language or _guess(text)
        usage = Usage(self.language, self.year)
        self._dates = acts_by_date(text, usage)
        self._defined = defined(text, usage)
        self._defined |= {name: act for act in self._defined.values() for name in abbreviations(act)}
        self.spans = [
            Span(*self._plain.place(span.start, span.end), tuple(self.named(citation) for citation in span.citations))
            for span in _with_parts(text, list(_spans(text, usage)), usage)
        ]
        self.citations = list(dict.fromkeys(citation for span in self.spans for citation in span.citations))
        self.texts = {citation.text for citation in self.citations}
        self.articles: dict[str, list[Citation]] = {}  # by label and number: "Art. 41"
        self.ranges: list[Citation] = []
        for citation in self.citations:
            if citation.kind == "article":
                label, value = citation.path[0]
                for end in _ends(value):
                    self.articles.setdefault(f"{label} {end}", []).append(citation)
                if end != value:
                    self.ranges.append(citation)

    def status(self, citation: Citation) -> Status:
        """Whether this citation is there; of a range, whether its ends are."""
        citation = self.named(citation)
        if citation.text in self.texts and citation.kind != "consideration":
            return "found"
        if citation.kind not in ("article", "consideration"):
            return self._judgment(citation)
        look = self._article if citation.kind == "article" else self._consideration
        statuses = {look(replace(citation, path=path)) for path in _simple(citation.path)}
        return statuses.pop() if len(statuses) == 1 else "partly"

    def places(self, citation: Citation) -> list[tuple[int, int]]:
        """The characters, start and end, that have this citation, else those that have a part of it; none if it is
        missing."""
        citation = self.named(citation)
        if citation.kind == "consideration":
            headings = (self._heading(path[0][1]) for path in _simple(citation.path))
            return list(dict.fromkeys(heading for heading in headings if heading))
        near: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for span in self.spans:
            supports = [answer for other in span.citations if (answer := _supports(other, citation)) is not None]
            if supports:
                near[any(supports)].append((span.start, span.end))
        return near[True] or near[False]

    def named(self, citation: Citation) -> Citation:
        """With the act that the decision gives this abbreviation, or this date."""
        if citation.act in self._defined and not is_known(citation.act):
            return replace(citation, act=self._defined[citation.act])
        return replace(citation, act=self._dates[citation.dated]) if citation.dated in self._dates else citation

    def _judgment(self, citation: Citation) -> Status:
        """A decision by its number, with or without the consideration; an act by its number in the compilation."""
        (whole, *part) = citation.path
        if not any(other.path[0] == whole for other in self.citations if other.kind == citation.kind):
            return "missing"
        return "partly" if part else "found"

    def _article(self, citation: Citation) -> Status:
        label, number = citation.path[0]
        same = self.articles.get(f"{label} {number}", []) + [
            other for other in self.ranges if other.path[0][0] == label and _covers(other.path[0][1], number)
        ]
        named = [other for other in same if _surely(citation.act, other.act)]
        unnamed = [other for other in same if not other.act]
        if named and any(_reaches(other, citation) for other in named + unnamed):
            return "found"
        return "partly" if named or any(_perhaps(citation.act, other.act) for other in same) else "missing"

    @cached_property
    def _parts(self) -> list[Consideration]:
        """The decision's numbered considerations, each at its place in the decision."""
        read = plain(self.decision)  # with its page marks, behind which a heading may stand
        parts = [part for part in structure(read.text).considerations if part.number]
        return [replace(part, start=read.place(part.start, part.start + 1)[0]) for part in parts]

    @property
    def names(self) -> list[str]:
        """What the considerations are cited by: `3`, `3b/aa`, `II/1`."""
        return list(self._by_name)

    @property
    def counted(self) -> list[tuple[str, int]]:
        """The numbers of the considerations, each with its place."""
        return [(part.number, part.start) for part in self._parts]

    @cached_property
    def _by_name(self) -> dict[str, Consideration]:
        """The considerations by what they are cited by; of two of one name, the first."""
        return {name: part for part in reversed(self._parts) for name in part.names}

    def _heading(self, number: str) -> tuple[int, int] | None:
        """Where a consideration begins, else the one that it lies in."""
        names = (*_spellings(number), *map(above, _spellings(number)))
        part = next((self._by_name[name] for name in names if name in self._by_name), None)
        return (part.start, part.start + len(part.number)) if part else None

    def _consideration(self, citation: Citation) -> Status:
        spellings = _spellings(citation.path[0][1])
        if any(name in self._by_name for name in spellings):
            return "found"
        return "partly" if any(above(name) in self._by_name for name in spellings) else "missing"


def _with_parts(text: str, cited: list[Span], usage: Usage) -> list[Span]:
    """Also what stands alone behind an article as its part: `Art. 439 ZGB kann sie das Gericht anrufen (Abs. 1)`."""
    with_parts = []
    for span, following in zip_longest(cited, cited[1:]):
        with_parts.append(span)
        articles = {(citation.path[0], citation.act) for citation in span.citations if citation.kind == "article"}
        if len(articles) == 1:
            last = span.citations[-1]
            end = min(following.start if following else len(text), span.end + NEAR)
            for path, start, stop in read_parts(text, span.end, end, last.path, last.act, usage):
                with_parts.append(Span(start, stop, (replace(last, path=path),)))
    return with_parts


def _supports(cited: Citation, citation: Citation) -> bool | None:
    """Whether what a decision cites is this citation, True, a part of it or something near, False, or another, None."""
    if cited.kind != citation.kind:
        return None
    if cited.text == citation.text:
        return True
    if citation.kind != "article":
        return len(citation.path) == 1 if cited.path[0] == citation.path[0] else None
    if not any(_same_article(cited, path[0]) for path in _simple(citation.path)):
        return None
    if not (_surely(citation.act, cited.act) or _perhaps(citation.act, cited.act)):
        return None
    named = _surely(citation.act, cited.act) or not cited.act
    return named and any(_reaches(cited, replace(citation, path=path)) for path in _simple(citation.path))


def _same_article(cited: Citation, first: tuple[str, str]) -> bool:
    label, number = cited.path[0]
    return label == first[0] and (first[1] in _ends(number) or _covers(number, first[1]))


def _spellings(number: str) -> list[str]:
    """A number as the decision may have it: `II/1` is `1` where its parts go on counting, a scan reads `1` as `I`."""
    part, _, rest = number.rpartition("/")
    return [number, *([rest] if part.isupper() else ["1"] if number == "I" else [])]


def above(number: str) -> str:
    """The consideration that one lies in: `3.2` for `3.2.1`, `3b` for `3b/aa`, `3` for `3b`."""
    return re.sub(r"(?:\.\d+|/?[a-z]+)$", "", number)


def _ends(value: str) -> list[str]:
    """The ends of a range, else the value: `3` and `5` of `3-5`, `12` of `12 ff.`"""
    return value.split(" ")[0].split("-")[:2]


def _simple(path: CitationPath) -> list[CitationPath]:
    """The paths without ranges that a path with ranges begins and ends with."""
    first = tuple((level, _ends(value)[0]) for level, value in path)
    last = tuple((level, _ends(value)[-1]) for level, value in path)
    return [first] if first == last else [first, last]


def _order(number: str) -> tuple[int, str]:
    digits = re.match(r"\d+", number)
    return (int(digits[0]), number[digits.end() :]) if digits else (0, number)


def _covers(cited: str, value: str) -> bool:
    """Whether a cited value or range has another in it: `1-3` has `2`, `12 ff.` has `14`."""
    first, last = _order(_ends(cited)[0]), _order(_ends(cited)[-1])
    if cited.endswith("f."):
        last = (last[0] + (_FF if cited.endswith("ff.") else 1), "")
    return first <= _order(value) <= last


def _reaches(cited: Citation, citation: Citation) -> bool:
    """Whether a cited article goes as deep as this citation, and deeper at most."""
    deep, wanted = cited.path[1:], citation.path[1:]
    return len(deep) >= len(wanted) and all(
        level == name and _covers(value, number) for (level, value), (name, number) in zip(deep, wanted, strict=False)
    )


def _surely(act: str, cited: str) -> bool:
    """Whether two acts are one; where one has no abbreviation, the other must not have a known one.

    A cantonal law may go without its canton, `LAN` for `LAN/TI`; one of a canton must be that canton's.
    """
    if act and cited:
        return act == cited or (act == cited.partition("/")[0] != "KV" and not is_known(act))
    return act == cited or not is_known(act or cited)


def _perhaps(act: str, cited: str) -> bool:
    """Whether two acts may be one: a title without an abbreviation, another annex, a cantonal law in two languages."""
    return not act or not cited or base(act) == base(cited) or not (is_known(act) or is_known(cited))
