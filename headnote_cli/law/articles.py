"""The grammar of article citations: `Art. 8, 9 und 29 Abs. 2 BV`, `art. 8, 9 et 29 al. 2 Cst.`

A citation is read token by token from its `Art.`, each token in bounded time and never twice, so that a text is read
in time linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from headnote_cli.law.acts import CANTONS, Usage, base, is_known, read_act, treaties
from headnote_cli.law.titles import DATE, day_of, read_title

CitationPath = tuple[tuple[str, str], ...]  # (("Art.", "29"), ("Abs.", "2"))

_LATIN = r"(?:bis|ter|quater|quinquies|sexies|septies|octies|novies|nonies|decies|undecies|duodecies)"
_MANY = r"(?:ff|ss|segg|sgg)(?!\w)"
# Also `1er`, and without a blank `62ff.`; of `62f.` the letter is the article's own unless an act follows.
_NUMBER = (
    r"(?:1\s?er(?!\w)|"
    rf"\d{{1,4}}\s[a-df-np-xz](?=\s(?:al|Abs|cpv|cp|litt?|let|ch|Ziff)\.|\s(?:[A-Z]\w*[A-Z]|Cst))|"  # 226 a al. 2
    rf"\d{{1,4}}(?:\.\d{{1,4}}){{0,4}}(?:(?={_MANY})|(?=[fs]\.\s(?:\w*[A-Z]\w*[A-Z]|Cst|Cost))|"
    rf"(?:\s?{_LATIN}(?!\w)(?!\s\d)|[a-z](?:\s?{_LATIN}(?!\s\d))?)?(?![\w°])))"
)
_NEXT_LEVEL = r"\s(?:und mit\s)?(?:(?:lit|Bst|let|lett|Abs|Ziff|al|cpv)\.|[a-z](?!\w))"  # `lit. a bis c` is a range
_LETTER = rf"[a-z](?:{_LATIN}|\s{_LATIN}(?!\w)(?!{_NEXT_LEVEL}))?(?![\w'’])"
_GAP = r"\s{0,3}"

ANCHOR = (
    r"(?<!\w)[an]?[Aa]rt(?:[ts]?\.|ikeln?s?|icles?|icol[oi])\s{0,3}(?=\d)|(?<!\w)[Aa]rt\s(?=\d)|(?<!\w)§{1,2}\s{0,3}(?=\d)"
    r"|(?<!\w)(?:Anhang|Anh\.|[Aa]nnexe|[Aa]llegato)\s(?=[IVX]{1,4}\b|\d)"
)

_LEVELS = {
    "Abs.": r"Abs\.?|Absatz|Absätze|al\.?|alinéas?|cpv\.?|cp\.|capovers[oi]|par\.|paragraphes?|paragraf[oi]|§{1,2}",
    "Unterabs.": r"Unterabs\.|Unterabsatz|sous-par\.|sottoparagrafo|comma",
    "lit.": r"litt?\.?|Bst\.?|Buchst\.|Buchstaben?|let\.?|lettres?|lett\.?|lettera",
    "Ziff.": r"Ziff\.?|Ziffern?|Nr\.|Nrn\.|ch\.?|chiffres?|n\.|nn\.|n°|num\.|cifr[ae]|numero",
    "Satz": r"Satz|Sätze|phrases?|phr\.|frase|per\.|periodo",
}
_LEVEL = re.compile(
    rf"(?:a(?=Abs|al)|ancien\s|vecchio\s)?(?:{'|'.join(rf'(?P<L{i}>{p})' for i, p in enumerate(_LEVELS.values()))})"
    rf"(?:(?<=\.)|(?![^\W\d_])){_GAP}"
    rf"(?:(?P<number>{_NUMBER})|(?P<letter>{_LETTER}|(?<=lit\.\s)[A-H](?!\w)|(?<=litt\.\s)[A-H](?!\w)))"
)
_SENTENCE = re.compile(
    r",?\s?(?P<ordinal>[1-9]\s?(?:\.|re|ère|e|ème|a|°|o)|erste[rn]?|zweite[rn]?|dritte[rn]?|vierte[rn]?|letzte[rn]?"
    r"|première|deuxième|seconde|troisième|quatrième|dernière|prim[ao]|second[ao]|terz[ao]|quart[ao]|ultim[ao])"
    r"\s(?:Satz|Halbsatz|Teilsatz|Satzteil|(?:partie de )?phrase|frase|periodo|per\.)(?!\w)"
)
# `2e al.`, `1o comma`: a paragraph by its ordinal.
_NTH_PARAGRAPH = re.compile(r",?\s(?P<nth>[1-9])\s?(?:er|re|e|ème|°|o|º)\s(?:al\.|alinéa|comma|cpv\.|capoverso)(?!\w)")
_ORDINALS = {
    **dict.fromkeys(("ers", "pre", "pri"), "1"),
    **dict.fromkeys(("zwe", "deu", "sec"), "2"),
    **dict.fromkeys(("dri", "tro", "ter"), "3"),
    **dict.fromkeys(("vie", "qua"), "4"),
}
AND = (
    r"und|et|ed|e|sowie|ainsi que|ainsi qu(?=['’])|nonch[éè]|come pure|bzw\.|beziehungsweise|respektive|resp\."
    r"|respectivement|rispettivamente|oder|ou|o|i\.\s?V\.\s?m\.|iVm|in Verbindung mit|in Verb\. mit"
    r"|en relation avec|en rel\. avec"
    r"|en lien avec|en liaison avec|en corrélation avec|in relazione(?: con)?|par renvoi|su rinvio"
    r"|in combinato disposto con|con rimando|in combinazione con|in rel\. con|unitamente|combinés? avec"
    r"|combinat[oi] con|cum|mit|wie auch|als auch|con|insb\.|insbesondere|namentlich|en partic(?:\.|ulier)"
    r"|notamment|spéc(?:\.|ialement)"
    r"|in particolare|segnatamente|je in Verbindung mit"
)
FILLER = (
    r"(?:(?:de|des|du|les|aux|à|au|von|der|dem|den|ai|al|alt|gli|agli|degli|dagli|dei|ancien|vecchio|selon)\s"
    r"|(?:l|de l|à l|d|dell|all|nell|dall)?['’]\s?)"
)
_JOIN = re.compile(
    rf"{_GAP}(?:,\s{{0,2}}(?:(?:{AND})(?!\w)\s?)?|(?:{AND})(?!\w)\s?|/\s?(?=\d))(?P<article>{FILLER}{{0,2}}(?P<anchor>{ANCHOR}))?"
)
_RANGE = re.compile(rf"\s?[-–]\s?|\s(?:bis|à|a)\s(?:l'|dem\s)?(?:{ANCHOR})?")
_FOLLOWING = re.compile(
    r"\s?(?:(?P<many>(?:et?\s)?(?:ss|segg|sgg)|ff|et\s(?:suiv|suivants)|und\s(?:ff|folgende))(?!\w)\.?"
    r"|(?:et?\s(?=s)|(?<=\s)|(?=[fs]\.))(?P<one>f|s|seg|sg)(?:\.|(?![\w'’])))"
)
_FOLLOWING_FORM = {"many": " ff.", "one": " f."}
_OF = re.compile(
    r"(?P<comma>,)?\s{0,3}(?P<of>(?:de l|dell|à l|all)['’]\s?"
    r"|(?:de la|du|des|de|della|del|dei|delle|der|dem|zum|zur|à la|au)\s)?"
)
_ANNEX = re.compile(
    r"\s?(?:(?:zu|des|de|à)\s)?(?:(?:de l|dell|all|à l)['’]\s?)?(?:Anhangs?|Anh\.|[Aa]nnexe|[Aa]llegato)\s"
    r"(?P<number>[IVX]{1,4}|\d{1,2}(?:\.\d{1,2})?|[A-C])(?!\w)"
)
# An act by its title: "Art. 4 der Verordnung vom 10. März 1976 über … (VXY; SR 1.2)".
_TITLE = re.compile(r"(?:[^;()\[\].]|(?<=\d)\.|(?<=\bst)\.|\[[a-zà-ü….][^;,()\[\]\d]{0,40}\]){5,160}[(\[](?=\w)")
_BRACKET = re.compile(r"[^\w;.]{0,3}[(\[]")
_SHORT_TITLE = re.compile(r"[^;()\[\]]{3,80},\s|(?:COVID|Covid)-19(?:\)\s\(|;\s)")
_UP_TO_DATE = re.compile(r"[^;()\[\].]{0,160}?(?<!\w)(?=(?:vom|du|dell?['’]?)\s?\d)")
_PAGE = re.compile(r"\s?[A-Z]?\s?\d")  # of a gazette or a cantonal collection: `BBl 2010 1234`, `LS 713.11`
# Which wording is meant: "Art. 24 (in der bis 2016 geltenden Fassung), Art. 24a BVV 2".
_WORDING = re.compile(
    r"\s\((?![^()]{0,160}rt\. )"
    r"(?=[^()]{0,160}\b(?:Fassung(?:en)?|Kraft|nicht|teneur|vigueur|pas|tenore|versione|vigore|non)\b)[^()]{1,160}\)"
)
_COMMA = re.compile(r",\s?")
# Where in a paragraph: at its end, or before its letters.
_PLACE = re.compile(
    r"\s(?:in fine|i\.f\.|a\.E\.|in initio|in limine|Ingress|préamb(?:ule|\.)|parte introduttiva)(?!\w)"
    r"(?:\s(?:und|et|e)(?=\sl(?:it|et|ett)\.))?"
)
_BARE = re.compile(rf"(?P<number>{_NUMBER})|(?P<letter>{_LETTER})")
_VALUE = re.compile(_NUMBER)
_FIRST = {"Art.": _VALUE, "§": _VALUE, "Anhang": re.compile(rf"[IVX]{{1,4}}(?!\w)|{_NUMBER}")}
_SPACE = re.compile(_GAP)
_ONE_LETTER = re.compile(_LETTER)
_LETTERED = re.compile(r"\d+[a-z]")
_AGAIN = re.compile(r"(?:und mit\s)?(?:(?:lit|Bst|let|lett)\.\s?)?")  # `lit. a bis lit. c`
# A part of the article before: what it begins with, what may stand before it, and what makes it something else's.
_PART = re.compile(r"(?<![\w.])(?=(?:Abs\.|Absatz|al\.|alinéa|cpv\.|capoverso|lit\.|Bst\.|let\.|lett\.)\s?[\da-z])")
_BEFORE_PART = re.compile(
    r"(?:[(\['’]|[(\s](?:vgl\.|cf\.|nach|gemäss|laut|in|aus|auf|und|oder|zu|dessen|deren|seine[mn]|ihre[mn]"
    r"|selon|et|ou|son|à|par|secondo|e|o|suo|il|al|del|nel|dal)\s)$"
)
_OF_OTHERS = re.compile(
    r",?\s(?:von|vom|zu[mr]?|des|der|diese[rs]|de[rs]selben|du|del?|di|dell[ao]|(?:de l|dell)['’])(?!\w)"
    r"(?!\s?(?:(?:genannten|gleichen|cette|la|même|dite|questa|tale|stessa|medesima)\s){0,2}"
    r"(?:Bestimmung|Norm|Artikels|Gesetzesbestimmung|disposition|norme|article|disposizione|norma|articolo)(?!\w)(?!\s\d))"
)
# Subdivisions that stand before their article: `Abs. 2 von Art. 5`, `il capoverso secondo dell'art. 5`.
_ABOVE = re.compile(
    rf"(?:(?:Abs\.|Absatz|al\.|alinéa|cpv\.|capoverso)\s(?P<paragraph>\d{{1,2}}{_LATIN}?|primo|secondo|terzo|quarto)"
    rf"|(?P<nth>[1-9])\s?(?:er|e|ème)\s(?:al\.|alinéa))?"
    rf"(?:(?(paragraph)\s)(?:lit\.|Bst\.|let\.|lett\.|lettre|lettera)\s(?P<letter>[a-z]))?"
    r"\s(?:von|des|(?:de l|dell)['’])\s?$"
)
# An act by one German word, which needs no article before it: `Art. 85 Versicherungsaufsichtsgesetz (VAG)`.
_NOUN = re.compile(r"[A-ZÄÖÜ][\w-]*(?:gesetz|ordnung|buch|recht|konvention)(?!\w)")
DEEPEST = 8  # levels of a citation


@dataclass
class _Chain:
    """Articles that share one act, while they are read."""

    text: str
    usage: Usage
    at: int
    anchor: str
    done: list[CitationPath] = field(default_factory=list)
    path: list[tuple[str, str]] = field(default_factory=list)
    begins: int = 0  # where the article on the path begins

    def read(self) -> bool:
        """Read articles up to their act; False if there is no number here."""
        if not self._article(self.at, self.anchor):
            return False
        self._read_on()
        return True

    def read_part(self, article: CitationPath) -> CitationPath:
        """Read a subdivision that names no article, and is of this one: `(Abs. 1 lit. a)`. Empty if it cannot be."""
        level = self._level(self.at)
        if level is None:
            return ()
        above = ("Abs.",) if level[0] == "lit." else ()
        self.path = [article[0], *(part for part in article[1:] if part[0] in above)]
        self._set(len(self.path), *level)
        while self._extend():
            pass
        return tuple(self.path)

    def _read_on(self) -> None:
        while self._extend() or self._join() or self._wording():
            pass
        self.done.append(tuple(self.path))

    def _set(self, depth: int, level: str, value: str, end: int) -> None:
        """Put a value at a depth of the path, with the rest of its range and its `ff.`"""
        value = "".join(value.split())
        value = "1" if value == "1er" else value
        last = self._range_end(level, value, end)
        if last:
            value, end = f"{value}-{last[0]}", last[1]
        following = _FOLLOWING.match(self.text, end)
        if following and not value.isalpha():
            value, end = value + _FOLLOWING_FORM[str(following.lastgroup)], following.end()
        self.path[depth:] = [(level, value)]
        self.at = end

    def _range_end(self, level: str, value: str, end: int) -> tuple[str, int] | None:
        """What a range ends with, and where: `5` of `3-5`, `340c` of `340a-c`."""
        mark = _RANGE.match(self.text, end)
        if mark is None:
            return None
        again = _AGAIN.match(self.text, mark.end()) if level == "lit." else None
        last = (_ONE_LETTER if again else _VALUE).match(self.text, again.end() if again else mark.end())
        if last:
            return "".join(last[0].split()), last.end()
        letter = _ONE_LETTER.match(self.text, mark.end()) if mark[0] in ("-", "–", " bis ", " à ") else None
        if letter and _LETTERED.fullmatch(value) and letter[0] > value[-1]:
            return value[:-1] + letter[0], letter.end()
        return None

    def _wording(self) -> bool:
        """Pass over which wording is meant, if another article or the act follows."""
        wording = _WORDING.match(self.text, self.at)
        if wording is None:
            return False
        join = _JOIN.match(self.text, wording.end())
        goes_on = bool((join and join["article"]) or _act(self.text, wording.end(), self.usage, False)[0])
        if goes_on:
            self.at = wording.end()
        return goes_on

    def _extend(self) -> bool:
        """One more subdivision of the article: `Abs. 2`, `lit. a`, `zweiter Satz`."""
        if len(self.path) == DEEPEST:
            return False
        sentence = _SENTENCE.match(self.text, self.at)
        if sentence:
            self.path.append(_sentence(sentence["ordinal"]))
            self.at = sentence.end()
            return True
        nth = _NTH_PARAGRAPH.match(self.text, self.at)
        if nth:
            self.path.append(("Abs.", nth["nth"]))
            self.at = nth.end()
            return True
        place = _PLACE.match(self.text, self.at)
        if place:
            self.at = place.end()
        level = self._level(self._skip(self.at))
        comma = _COMMA.match(self.text, self.at)
        if level is None and comma:  # `Abs. 1, Satz 2`
            level = self._level(comma.end())
            level = level if level and level[0] == "Satz" else None
        if level:
            self._set(len(self.path), *level)
        return level is not None or place is not None

    def _skip(self, at: int) -> int:
        gap = _SPACE.match(self.text, at)
        return gap.end() if gap else at

    def _level(self, at: int) -> tuple[str, str, int] | None:
        match = _LEVEL.match(self.text, at)
        if match is None:
            return None
        name = next(name for i, name in enumerate(_LEVELS) if match[f"L{i}"])
        value = match["number"] or match["letter"]
        if (name == "lit.") != (match["letter"] is not None) or ("§" in match[0] and self.path[0][0] != "Art."):
            return None
        return name, value, match.end("number" if match["number"] else "letter")

    def _join(self) -> bool:
        """What a comma or an `and` adds: an article, a sibling of the last subdivision, or nothing of ours."""
        join = _JOIN.match(self.text, self.at)
        if join is None:
            return False
        before = tuple(self.path)
        if join["article"] and "§" in join["anchor"] and self._in_sections():
            added = self._sibling(join.start("anchor"))
        else:
            added = self._article(join.end(), join["anchor"]) if join["article"] else self._sibling(join.end())
        if added:
            self.done.append(before)
        return added

    def _in_sections(self) -> bool:
        """Whether the article's paragraphs are written `§`, which may head an article as well."""
        return self.path[0][0] == "Art." and "§" in self.text[self.begins : self.at]

    def _article(self, at: int, anchor: str) -> bool:
        label = label_of(anchor)
        value = _FIRST[label].match(self.text, at)
        if value:
            self.begins = at
            self._set(0, label, value[0], value.end())
        return value is not None

    def _sibling(self, at: int) -> bool:
        level = self._level(at)
        if level:
            depth = next((i for i, (name, _) in enumerate(self.path) if name == level[0]), None)
            if depth is None and level[0] == "Ziff.":  # of an annex: `Art. 28 und Ziff. 3.2 Anhang 3`
                return False
            self._set(1 if depth is None else depth, *level)
            return True
        bare = _BARE.match(self.text, at)
        if bare is None:
            return False
        if bare["letter"]:
            return self._sibling_letter(bare[0], bare.end())
        depth = self._depth(bare[0], bare.end())
        self._set(depth, self.path[depth][0], bare[0], bare.end())
        return True

    def _sibling_letter(self, letter: str, end: int) -> bool:
        depth = next((i for i, (name, _) in enumerate(self.path) if name == "lit."), None)
        if depth is None or not 0 < ord(letter[0]) - ord(self.path[depth][1][-1]) < 12:  # `lett. a e a seguito`
            return False
        self._set(depth, "lit.", letter, end)
        return True

    def _depth(self, number: str, end: int) -> int:
        """Whether a bare number goes on the list of paragraphs, say, or is the next article."""
        level = self._level(self._skip(end))
        names = [name for name, _ in self.path]
        if level and level[0] == "Abs.":
            return 0
        deepest = names.index(level[0]) - 1 if level and level[0] in names else len(names) - 1
        return next((i for i in range(deepest, 0, -1) if goes_on(self.path, i, number)), 0)


def goes_on(path: Sequence[tuple[str, str]], depth: int, number: str) -> bool:
    """Whether a bare number behind an article goes on at a level of it, as in `Abs. 1 und 2`, `2 und 2bis`,
    `Ziff. 9, 10`; those of `Abs. 1 und 29`, `Abs. 1 und 9a` are articles."""
    level, value = path[depth]
    if level == "lit.":
        return False
    new, old, article = (_leading(of) for of in (number, value, path[0][1]))
    if number[-1].isalpha() and not re.search(_LATIN, number):
        return level == "Ziff." and new == old
    if new < old or (new == old and number.isdigit()):
        return False
    if new > 9:
        return new - old <= 3 and new < article
    return not (article < new and new >= 5 and new - old >= 3)


def _sentence(ordinal: str) -> tuple[str, str]:
    """`zweiter Satz` is `Satz 2`; so is a half of one, which French and Italian call a sentence."""
    number = ordinal[0] if ordinal[0].isdigit() else _ORDINALS.get(ordinal[:3])
    return ("Satz", number) if number else ("letzter Satz", "")


def label_of(anchor: str) -> str:
    """`Art.`, `§` or `Anhang`."""
    return "§" if "§" in anchor else "Art." if "rt" in anchor else "Anhang"


def _leading(value: str) -> int:
    """The number that a value ends or begins with: 3 of `1-3`, 2 of `2bis`."""
    digits = re.findall(r"\d+", value)
    return int(digits[-1]) if digits else 0


def read_articles(text: str, start: int, anchor: str, usage: Usage) -> tuple[list[tuple[CitationPath, str]], int]:
    """The articles cited after an `Art.` that ends at `start`, each with its act, and where the last one ends.

    The act is empty where none is abbreviated.
    """
    articles: list[tuple[CitationPath, str]] = []
    at, end = start, start
    while True:
        chain = _Chain(text, usage, at, anchor)
        if not chain.read():
            return articles, end
        act, act_end = _act(text, chain.at, usage, after_sentence="Satz" in chain.path[-1][0])
        if articles and not act:  # a number after an act is an article only if an act follows it
            return articles, end
        sentence = _SENTENCE.match(text, act_end) if act else None
        if sentence:  # `art. 80 cpv. 4 LPP, seconda frase`
            chain.done[-1] += (_sentence(sentence["ordinal"]),)
            act_end = sentence.end()
        if len(chain.done) == 1 and len(chain.done[0]) == 1 and not articles:
            chain.done[0] += _above(text, at - len(anchor))
        articles += [(_form(path, act), act) for path in chain.done if act or path[0][0] != "Anhang"]
        end = act_end
        join = _JOIN.match(text, end) if act else None
        if join is None or join["article"]:
            return articles, end
        at = join.end()


def _above(text: str, at: int) -> CitationPath:
    """The subdivisions that stand right before an article."""
    before = _ABOVE.search(text[max(0, at - 50) : at])
    if before is None:
        return ()
    paragraph = before["paragraph"] or before["nth"] or ""
    number = _ORDINALS.get(paragraph[:3], paragraph)
    parts = (("Abs.", "".join(number.split())), ("lit.", before["letter"] or ""))
    return tuple((level, value) for level, value in parts if value)


def read_parts(
    text: str, start: int, end: int, article: CitationPath, act: str, usage: Usage
) -> list[tuple[CitationPath, int, int]]:
    """The subdivisions between two places that stand alone and are parts of this article; where each begins and ends.

    Not one that is said to be of something else: `Abs. 2 von Art. 5`, `Ziff. 7 Abs. 4`, `Abs. 2 des Reglements`.
    """
    parts: list[tuple[CitationPath, int, int]] = []
    at = start
    if not article[0][1].isalnum() or any(name not in ("Abs.", "lit.", "Satz") for name, _ in article[1:]):
        return parts  # of which article of a range, under which number?
    while match := _PART.search(text, at, end):
        at = match.start() + 1
        if not _BEFORE_PART.search(text[max(0, at - 16) : at - 1]):
            continue
        chain = _Chain(text, usage, match.start(), "")
        path = chain.read_part(article)
        if path and chain.at <= end and not _OF_OTHERS.match(text, chain.at):
            article = path
            parts.append((_form(path, act), match.start(), chain.at))
            at = chain.at
    return parts


def _act(text: str, at: int, usage: Usage, after_sentence: bool) -> tuple[str, int]:
    """The act after the articles, with the annex that they stand in; empty if none is abbreviated here.

    In French a comma goes before it when the articles end in `, 2e phrase`.
    """
    annex = _ANNEX.match(text, at)
    start = annex.end() if annex else at
    of = _OF.match(text, start)
    act = read_act(text, of.end(), usage, known=bool(of["of"] or of["comma"])) if of else None
    if of is None or act is None or (of["comma"] and not after_sentence):
        if of is None or not (of["of"] or _NOUN.match(text, of.end())):
            return "", at
        act, title = _titled(text, at, usage), read_title(text, of.end(), usage)
        return title if title and not (act[0] and _BRACKET.match(text, title[1])) else act
    return (f"Anhang {annex['number']} {act[0]}" if annex else act[0]), act[1]


def _titled(text: str, at: int, usage: Usage) -> tuple[str, int]:
    """The abbreviation in brackets after an act's title, before any other article."""
    title = _TITLE.match(text, at)
    if title is None or "rt. " in title[0]:
        return "", at
    act = read_act(text, title.end(), usage)
    short = None if act else _SHORT_TITLE.match(text, title.end())  # "(loi sur les avocats, LLCA; RS 935.61)"
    if short:
        act = read_act(text, short.end(), usage)
        act = act if act and act[0] not in CANTONS and text[act[1] : act[1] + 1] in tuple(";,)]") else None
    if act is None or (not is_known(act[0]) and _PAGE.match(text, act[1])):
        return "", at
    return act


def read_date(text: str, at: int) -> str:
    """The date of the act whose title follows the articles that end here, `der Vereinbarung … vom 25. November 1994`;
    empty if none does."""
    of = _OF.match(text, at)
    title = _UP_TO_DATE.match(text, of.end()) if of and of["of"] else None
    date = DATE.match(text, title.end()) if title else None
    return day_of(date) if date else ""


def acts_by_date(text: str, usage: Usage) -> dict[str, str]:
    """The acts that a text introduces by title, date and abbreviation, `Verordnung vom 12. Mai 2010 über … (PSMV)`, by
    their date; not two of one day."""
    by_date: dict[str, set[str]] = {}
    for date in DATE.finditer(text):
        act, _ = _titled(text, date.start(), usage)
        if act:
            by_date.setdefault(day_of(date), set()).add(act)
    return {date: acts.pop() for date, acts in by_date.items() if len(acts) == 1}


def _form(path: CitationPath, act: str) -> CitationPath:
    """One form of what the languages call differently: the first level of a treaty's article is its paragraph."""
    if base(act) not in treaties() and not act.startswith(("VO ", "RL ")):
        return path
    level = "Ziff." if act == "EMRK" else "Abs."
    return tuple((level, v) if i == 1 and n in ("Abs.", "Ziff.") else (n, v) for i, (n, v) in enumerate(path))
