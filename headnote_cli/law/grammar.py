"""A grammar of headnotes that cite only what their decision has, for constrained decoding.

In Lark's syntax with the set operations on regular expressions of llguidance (github.com/guidance-ai/llguidance), which
vLLM and llama.cpp take, too. A headnote is free text and citations by turns. Free text has nothing that the parser
would read as the beginning of a citation; a citation is one that the decision has, in the headnote's language; and what
follows one does not go on with it. All is one terminal, since the lexer would take the longest of several.

The tests check it from both sides: of what is accepted, `Cited.status` finds every citation, and official headnotes
whose citations are all found are accepted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from headnote_cli.law.acts import Usage, abbreviations, base, is_known, treaties
from headnote_cli.law.articles import CitationPath, goes_on
from headnote_cli.law.citations import Citation, Cited, Status, citations
from headnote_cli.law.numbers import JOIN
from headnote_cli.law.titles import titles_of

# The characters of a grounded headnote: those of the parser's plain text, less all that no headnote has.
_PLAIN = r"\n -_a-~¡-¬®-³µ-¹»-ɏ–’“”„…€‹›•"
_LETTERS = "0-9A-Z_a-zª²³µ¹¼-¾À-ÖØ-öø-ɏ"
_ANY = r"(.|\n)*"
_WORD_ENDS, _WORD_BEGINS = r"((.|\n)*\W)?", r"(\W(.|\n)*)?"  # before a word, and behind one
_APART = r"[^\w;:]*"  # between `Art.` and its number: blanks, brackets, quotes
_IN_WORDS = (  # beginnings of citations, wherever they stand
    rf"[Aa]rt([ts]?\.|ikeln?s?|icles?|icol[oi])?{_APART}\d",
    rf"§{_APART}\d",
    rf"(Anhangs?|Anh\.|[Aa]nnexe|[Aa]llegato){_APART}([IVX]+\W|\d)",
    rf"([Cc]ons(id)?\.|Erw\.|Erwägung(en)?|[Cc]onsidérants?|[Cc]onsiderand[oi]){_APART}(\d|[IVX]+[^\w.'’/])",
    rf"(BGE|ATF|DTF|RO|RU){_APART}\d{{1,3}}\s*[IV]",
    rf"(EVGE|ATFA|STFA|BVGE|ATAF|DTAF|TPF){_APART}\d{{4}}",
    r"\d[A-Z](_|\.)\s?\d",
    "  ",  # the parser reads two spaces as one
)
_AS_WORDS = (  # those that may be the end of a word, and then are none
    rf"(E\.|c\.){_APART}(\d|[IVX]+[^\w.'’/])",
    r"(SR|RS)\s?(0\.\d|\d{3})",
    r"(BB|BE|BG|BH|BK|BP|BV|CA|CN|CR|RH|RP|RR|SK|SN|TPF)\.20\d",
    r"[BCEHIKMPU] \d{1,4}/\d",
    r"[A-F]-\d{1,5}/20",
    r"[ABCEKP]\.\s?\d{1,4}/(19|20)",
)
_AT_THE_END = (
    rf"(Anhangs?|Anh\.|[Aa]nnexe|[Aa]llegato|[Cc]ons(id)?\.|Erw\.|Erwägung(en)?|[Cc]onsidérants?|[Cc]onsiderand[oi]"
    rf"|E\.|c\.){_APART}[IVX]+"
)
# What follows a citation, and does not go on with it: a sign; or words without numbers up to one, or to the end of a
# sentence. (An intersection with the whole of the text would be simpler to say, and is too much for the lexer.)
_SIGN, _CLOSES, _BLANK, _NO_LETTER = r"[;:)\]»]", r"[:)\]»]", r"[ \n]", r"\W"
_RUN = r"[ ,\n][^\d;:()\[\]»§]*"
# A first word behind which numbers are free, unless it joins, or begins a citation.
_FIRST = r",? [A-ZÄÖÜ]?[a-zà-ÿ]{2}[a-zà-ÿ]* "
_NO_FIRST = (
    r",? (und|ed?|et|sowie|ainsi|nonch[éè]|come|beziehungsweise|respektive|respectivement|rispettivamente|oder|ou?|in"
    r"|en"
    r"|par|su|con|unitamente|combin[a-zé]*|cum|mit|wie|als|insbesondere|namentlich|notamment|particulier|segnatamente|je"
    r"|de|des|du|les|aux|au|von|der|dem|den|ai|al|alt|gli|agli|degli|dagli|dei|ancien|vecchio|selon|vom|del|della|dell"
    r"|bis|aus|[Aa]rt[a-zà-ÿ]*|Anhangs?|[Aa]nnexe|[Aa]llegato|Erwägung(en)?|[Cc]onsid[a-zé]*|Satz|phrase|frase|periodo"
    r"|primo?|alinéa|comma|al|cpv|lit|let|lett|litt|ch|cifra|num|chiffre|Abs|Ziff|Nr|Bst)",
)
_LEAVES = r"[;:()\[\]»]"
_SENTENCE = r"(.|\n)*[a-zà-ÿ]{4}[a-ce-zà-ÿ]\.[ \n]"  # not `consid.`
_ROMAN = r"((.|\n)*\W)?[IVX]+"
_NOT_BEHIND_AN_ACT = (
    r"[ ,\n]{1,2}(erste|zweite|dritte|vierte|letzte|premi|deuxi|second|troisi|quatri|derni|prim|terz|quart|ultim)\w*",
    r" (argovi|bern|frib|genev|ginev|glaron|gris|grig|juras|giuras|lucern|neuch|neocast|nidwald|obwald|saint-gall"
    r"|sangall|schaffh|sciaffus|soleur|solett|schw[yi]|svitt|thurg|turg|tessin|ticin|uran|vaud|vod|valais|vallesa|zoug|zug|zur"
    r"|bâl|basil|canton)[a-zà-ÿ-]*",
    r" (arg|ber|fri|gen|gin|gla|gri|jur|giu|luc|neu|neo|nid|obw|sai|san|sch|sci|sol|svi|thu|tur|tes|tic|ura|vau|vod|val"
    r"|zou|zug|zur|bâl|bas|can)[a-zà-ÿ-]*\.",
)
_NOT_BEHIND_A_NUMBER = (
    r"[ ,\n]{1,2}((und|ed?|et|sowie|ou?|oder|bzw\.|resp\.|ainsi que|nonché|bis|à|a) )?[a-z]{1,2}",
    r" (von|vom|des|aus|du|de la|del|della|de|dell|litt?|lett?|Bst|lettre|lettera|segg?)",
)
_NOT_BEHIND_A_JUDGMENT = (r",? (S|p|pag|ff?|ss?|segg?|vom|du|del|dell)",)
# An article without an act ends at a sign; or, where the decision names no act either, before the act's title.
_TITLE = r",? (der|des|dieser|de la|de l['’]|du|des|de|della|dell['’]|del|dei|delle) ?[A-ZÄÖÜ]?[a-zà-ÿ]{2}[a-zà-ÿ-]* "
_ANCHORS = {
    "Art.": r"([Aa]rtt?\.|Artikeln?|[Aa]rticles?|[Aa]rticol[oi]) ",
    "§": "§{1,2} ",
    "Anhang": r"(Anhang|[Aa]nnexe|[Aa]llegato) ",
}
_WHERE = r"(E\.|Erw\.|Erwägung(en)?|[Cc]ons(id)?\.|[Cc]onsidérants?|[Cc]onsiderand[oi]|c\.) ?"


@dataclass(frozen=True)
class _Words:
    """How the court writes citations in a language; all are regular expressions but the collections.

    Attributes:
        joins: Between the articles and parts of a list.
        again: Before another `Art.` of a list.
        of: Between an article and its act.
        following: `ff.`
        levels: Of an article's parts; `paragraph` of a treaty's.
        sentences: The first, the second …
        parts: Of acts, by the parser's name of them.
    """

    joins: str
    again: str
    of: str
    following: str
    levels: dict[str, str]
    sentences: tuple[str, ...]
    paragraph: str
    parts: dict[str, str]
    collections: dict[str, str]
    before_titles: tuple[str, ...]
    european: tuple[str, ...]


_WORDS = {
    "de": _Words(
        joins=r"(, |,? (und|sowie|wie auch|oder|bzw\.|i\. ?V\. ?m\.|in Verbindung mit) )",
        again="(mit |von |des )?",
        of="( (der|des|zum))? ",
        following=r" ?ff?\.",
        levels={"Abs.": r"Abs\. ?", "lit.": r"(lit|Bst)\. ?", "Ziff.": r"(Ziff|Nr)\. ?", "Satz": "Satz "},
        sentences=("(erster|1.)", "(zweiter|2.)", "(dritter|3.)", "(vierter|4.)"),
        paragraph=r"(Abs|Ziff)\. ?",
        parts={"Anhang": "Anhang", "SchlT": "SchlT", "ÜBest": "ÜBest", "SchlB": "SchlB"},
        collections={"E.": "E.", "S.": "S."},
        before_titles=(" der ", " des "),
        european=("Verordnung (EG) Nr.", "Verordnung (EU) Nr.", "Verordnung (EU)", "Richtlinie"),
    ),
    "fr": _Words(
        joins=r"(, |,? (et|ou|ainsi que|en relation avec|en lien avec|en liaison avec|par renvoi de) )",
        again="(l['’]|de l['’]|à l['’]|aux? |des |les )?",
        of="(( (de la|du|des))? | de l['’])",
        following=r"( et)? (ss?\.?|suivants)",
        levels={"Abs.": r"al\. ?", "lit.": r"(let|litt?)\. ?", "Ziff.": r"ch\. ?", "Satz": "phrase "},
        sentences=("(première|1re)", "(deuxième|seconde|2e)", "(troisième|3e)", "(quatrième|4e)"),
        paragraph=r"(par|al|ch)\. ?",
        parts={"Anhang": "annexe", "SchlT": "tit. fin.", "ÜBest": "disp. trans.", "SchlB": "disp. fin."},
        collections={"BGE": "ATF", "EVGE": "ATFA", "BVGE": "ATAF", "SR": "RS", "E.": "consid.", "S.": "p."},
        before_titles=(" de la ", " du ", " de l'"),
        european=("règlement (CE) n°", "règlement (UE) n°", "Règlement (CE) n°", "règlement (UE)", "directive"),
    ),
    "it": _Words(
        joins=r"(, |,? (e|ed|o|nonché|come pure|in relazione con|in combinato disposto con|in combinazione con) )",
        again="(l['’]|gli |dell['’]|all['’]|degli |agli )?",
        of="(( (della|del|dei))? | dell['’])",
        following=r"( e)? segg?\.",
        levels={"Abs.": r"cpv\. ?", "lit.": r"lett\. ?", "Ziff.": r"(cifra |n(um)?\. ?)", "Satz": "(frase|periodo) "},
        sentences=("(prim[ao]|1a)", "(second[ao]|2a)", "(terz[ao]|3a)", "(quart[ao]|4a)"),
        paragraph=r"(par|cpv|n)\. ?",
        parts={"Anhang": "allegato", "SchlT": "tit. fin.", "ÜBest": "disp. trans.", "SchlB": "disp. fin."},
        collections={"BGE": "DTF", "EVGE": "STFA", "BVGE": "DTAF", "SR": "RS", "E.": "consid.", "S.": "pag."},
        before_titles=(" della ", " del ", " dell'"),
        european=("regolamento (CE) n.", "regolamento (UE) n.", "regolamento (UE)", "direttiva"),
    ),
}
_ACT = re.compile(r"(?:(?P<part>SchlT|SchlB|ÜBest|Anhang (?P<annex>\S+)) )?(?P<base>.+)")
_EUROPEAN = re.compile(r"(?:VO|RL) (?P<number>\S+)")
_GENITIVE = re.compile(r"(?<=gesetz)(?!\w)|(?<=buch)(?!\w)")  # `Gesetzes`, `Gesetzbuches`
_INSIDE = 30  # numbers of a range that are listed one by one


def grammar(cited: Cited, language: str) -> str:
    """The grammar of the headnotes of a decision.

    Args:
        cited: What the decision cites, and its considerations.
        language: Of the headnotes, `de`, `fr` or `it`.
    """
    return _Grammar(cited, language).text()


@dataclass
class _Parts:
    """The parts of an article, or of such a part, that a decision cites, by level and value."""

    of: dict[str, dict[str, _Parts]] = field(default_factory=dict)

    def add(self, path: Sequence[tuple[str, str]]) -> None:
        """Add a path without `ff.`; of a range both ends and what lies between."""
        if path and path[0][1]:
            for value in _inside(path[0][1]):
                self.of.setdefault(path[0][0], {}).setdefault(value, _Parts()).add(path[1:])


class _Grammar:
    def __init__(self, cited: Cited, language: str) -> None:
        self.cited, self.language, self.words = cited, language, _WORDS[language]
        self.usage = Usage(language, cited.year)
        self.rules: dict[str, str] = {}  # the name of each rule, by the rule

    def text(self) -> str:
        """Free text, then citations, each with what follows it; what another citation follows ends before a word."""
        named, bare, unnamed = self._articles()
        considerations, judgments = self._considerations(), self._judgments()
        going_on: list[str] = []
        last = [cite for cite in (named, bare, considerations, judgments) if cite]
        for text, turns in (("BEFORE", going_on), ("TEXT", last)):
            articles = [f"{named} ({self._after(_NOT_BEHIND_AN_ACT, _SIGN, text)})"] if named else []
            articles += [f"{bare} ({self._after((), _SIGN, text)})"] if bare else []
            articles += [f"{unnamed} {_regex(_TITLE)} {text}"] if unnamed else []
            turns += articles
            if considerations:
                turns.append(f"{considerations} ({self._after(_NOT_BEHIND_A_NUMBER, _CLOSES, text)})")
            if judgments:  # up to the next sign, a consideration would be the judgment's
                run = self._run(_NOT_BEHIND_A_JUDGMENT)
                turns.append(f"{judgments} ({self._after((), _CLOSES, text)} | {run} {_regex(_SIGN)} {text})")
                turns += [f"{judgments} {self._words_only(run, text)} {self._any(articles)}"] if articles else []
                last += [f"{judgments} {run}"] if text == "TEXT" else []
        free = [
            f"/[{_PLAIN}]*/",
            f"~{_regex(_ANY + _one_of(_IN_WORDS) + _ANY)}",
            f"~{_regex(_WORD_ENDS + _one_of(_AS_WORDS) + _ANY)}",
            f"~{_regex(_WORD_ENDS + _AT_THE_END)}",
        ]
        whole = f"TEXT | BEFORE ({' | '.join(going_on)})* ({' | '.join(last)})" if last else "TEXT"
        rules = {"start": "WHOLE", "WHOLE": whole, "TEXT": " & ".join(free), "BEFORE": f"(TEXT {_regex(_NO_LETTER)})?"}
        rules |= {name: rule for rule, name in self.rules.items()}
        return "".join(f"{name}: {rule}\n" for name, rule in rules.items())

    def _run(self, forbidden: Sequence[str]) -> str:
        """Words without numbers, of which the first ones are not these."""
        begins = _regex(_one_of(forbidden) + _WORD_BEGINS)
        return self._rule(f"{_regex(_RUN)} & ~{begins} & ~{_regex(_ROMAN + _WORD_BEGINS)}")

    def _words_only(self, run: str, text: str) -> str:
        """Such words; what another citation follows does not end in a letter."""
        return run if text == "TEXT" else self._rule(f"{run} & {_regex(_ANY + _NO_LETTER)}")

    def _after(self, forbidden: Sequence[str], signs: str, text: str) -> str:
        """What follows a citation: a sign, or words, of which the first ones are not these.

        Args:
            signs: Behind which all may follow. Behind a semicolon a list of numbers goes on, behind a full stop an act
                may follow `ff`.
            text: What follows then: all of the `TEXT`, or that before another citation.
        """
        first = self._rule(f"{_regex(_FIRST)} & ~{_regex(_one_of([*forbidden, *_NO_FIRST]) + _WORD_BEGINS)}")
        on = f"{first} {text}"
        rules = [f"{_regex(signs)} {text}", f'"." {on}', f'";" {on}', '"; "', '"."']
        if forbidden:
            run = self._run(forbidden)
            sentence = self._rule(f"{run} & {_regex(_SENTENCE)}")
            rules += [f'"." {_regex(_BLANK)} {text}', self._words_only(run, text), f"{run} {_regex(_LEAVES)} {text}"]
            rules += [f"{sentence} {text}", on]
        if text == "BEFORE":
            rules.remove('"."')
        return self._any(rules)

    def _rule(self, rule: str, name: str = "") -> str:
        return self.rules.setdefault(rule, name or f"R{len(self.rules)}")

    def _any(self, rules: Iterable[str]) -> str:
        """One of several, empty if there are none."""
        alternatives = sorted(set(rules))
        return self._rule(" | ".join(alternatives)) if alternatives else ""

    def _reads(self, text: str, citation: Citation, statuses: Sequence[Status] = ("found",)) -> bool:
        """Whether the parser reads a text as this citation alone, and the decision has it."""
        read = citations(text, self.language, self.cited.year)
        return [c.text for c in read] == [citation.text] and self.cited.status(read[0]) in statuses

    # Articles

    def _articles(self) -> tuple[str, str, str]:
        """The rules of lists of articles: with their act, without it, and those that have none in the decision."""
        of_acts: dict[str, dict[str, dict[str, _Parts]]] = {}
        for citation in self.cited.citations:
            if citation.kind == "article":
                label, value = citation.path[0]
                for number in _inside(value):
                    parts = of_acts.setdefault(citation.act, {}).setdefault(label, {}).setdefault(number, _Parts())
                    parts.add(citation.path[1:])
        unnamed = of_acts.pop("", {})
        for labels in of_acts.values():  # a part of an article whose act the decision does not repeat
            for label, numbers in labels.items():
                for number in numbers.keys() & unnamed.get(label, {}).keys():
                    _merge(numbers[number], unnamed[label][number])
        named = []
        for act, labels in of_acts.items():
            if name := self._act(act):
                named += [self._rule(f"{listed} {name}") for listed in self._lists(labels, act)]
        bare: dict[str, dict[str, _Parts]] = {}
        for labels in [*of_acts.values(), unnamed]:
            for label, numbers in labels.items():
                for number, parts in numbers.items():
                    _merge(bare.setdefault(label, {}).setdefault(number, _Parts()), parts)
        for labels in (bare, unnamed):
            labels.pop("Anhang", None)  # without an act, it is not read as a citation
        return self._any(named), self._any(self._lists(bare, "")), self._any(self._lists(unnamed, ""))

    def _names(self, act: str) -> list[str]:
        """What an act is called in the language, by the parser's reading: its abbreviations, also as a former act."""
        match = _ACT.fullmatch(act)
        if match is None:
            return []
        own, slash, canton = match["base"].partition("/") if not act.startswith(("VO ", "RL ")) else (act, "", "")
        names = sorted(abbreviations("BV" if own == "KV" else own, self.language)) or [own]
        part = self.words.parts.get((match["part"] or "").split(" ")[0], "")
        before = " ".join(filter(None, [part, match["annex"]])) + " " if part else ""
        written = [f"{before}{name}{slash}{canton}" for name in dict.fromkeys([*names, own])]
        former = [f"{letter}{name}" for name in written for letter in "av" if name[0].isupper()]
        return [name for name in (*written, *former) if self._is_read(f"Art. 1 {name}", act)]

    def _titles(self, act: str) -> list[str]:
        """The rules of an act's titles, with what goes before them; its abbreviation may follow in brackets."""
        european = _EUROPEAN.fullmatch(act)
        number = [f"{kind} {european['number']}" for kind in self.words.european] if european else []
        rules = []
        for title in number or titles_of(act, self.language):
            title = _GENITIVE.sub("es", title, count=1) if self.language == "de" else title
            for of in self.words.before_titles:
                if self._is_read(f"Art. 1{of}{title}", act):
                    first = _regex(f"[{title[0].upper()}{title[0].lower()}]")
                    rules.append(f"{_literal(of)} {first} {_literal(title[1:])}")
        return rules

    def _is_read(self, text: str, act: str) -> bool:
        return [(c.path, c.act) for c in citations(text, self.language, self.cited.year)] == [((("Art.", "1"),), act)]

    def _act(self, act: str) -> str:
        """The rule of an act's names with what goes before them; empty if it has none in the language."""
        names, titles = self._names(act), self._titles(act)
        named = self._any(map(_literal, names))
        rules = [f"{_regex(self.words.of if is_known(act) else ' ')} {named}"] if names else []
        brackets = f'(" (" {named} ("; " /(SR|RS) [0-9.]*/)? ")")?' if names else ""
        rules += [f"{self._any(titles)} {brackets}"] if titles else []
        return self._any(rules)

    def _lists(self, labels: dict[str, dict[str, _Parts]], act: str) -> list[str]:
        """The rules of lists of an act's articles, by label."""
        return [rule for label, numbers in labels.items() if (rule := self._list(label, numbers, act))]

    def _list(self, label: str, numbers: dict[str, _Parts], act: str) -> str:
        """A list of articles: `8, 9 und 29 Abs. 2`, with another `Art.` or without.

        Without, a number that follows a part of an article (`Abs. 1 und 2`) may be another part; only those follow that
        the parser takes for an article.
        """
        statuses: Sequence[Status] = ("found",) if act else ("found", "partly")
        behind = f" {names[0]}" if act and (names := self._names(act)) else ""
        sign = label if label != "Art." else "Art."
        found = [
            n for n in numbers if self._reads(f"{sign} {n}{behind}", Citation("article", ((label, n),), act), statuses)
        ]
        if not found:
            return ""
        number = self._any(map(_literal, found))
        plain = self._rule(f"{number} ({_regex(self.words.following)} | /[-–]/ {number})?")
        deep = {n: rule for n in found if (rule := self._parts_of(((label, n),), numbers[n], act))}
        parted = self._any(f"{_literal(n)} {rule}" for n, rule in deep.items())
        item = self._rule(f"{plain} | {parted}") if parted else plain
        comma = _regex(self.words.joins)
        block = self._rule(f"({plain} {comma})* {item}")
        paths = [path for n in deep for path in _paths(((label, n),), numbers[n])]
        safe = [n for n in found if not any(goes_on(path, i, n) for path in paths for i in range(1, len(path)))]
        further = [f"{comma} {_regex(self.words.again + _ANCHORS[label])} {block}"]
        if safe:
            clear = self._any(map(_literal, safe))
            further.append(f"{comma} {clear} ({_regex(self.words.following)} | /[-–]/ {number})? ({comma} {block})?")
        by_paragraph = {n: _Parts({"Abs.": numbers[n].of["Abs."]}) for n in deep if "Abs." in numbers[n].of}
        clear_parts = [f"{_literal(n)} {deep[n]}" for n in deep if n in safe]
        clear_parts += [
            f"{_literal(n)} {self._parts_of(((label, n),), parts, act)}"
            for n, parts in by_paragraph.items()
            if n not in safe
        ]
        if clear_parts:
            further.append(f"{comma} {self._any(clear_parts)}")
        further_one = self._any(further)
        return self._rule(f"{_regex(_ANCHORS[label])} {block} {further_one}*")

    def _parts_of(self, path: CitationPath, parts: _Parts, act: str) -> str:
        """The rule of an article's parts, with the space before them: ` Abs. 1 lit. a und c`; empty if it has none."""
        rules = []
        for level, values in parts.of.items():
            labels = self.words.levels.get(level)
            if labels is None:
                continue
            if len(path) == 1 and (base(act) in treaties() or act.startswith(("VO ", "RL "))):
                labels = self.words.paragraph
            runs = self._runs(path, level, values, act)
            rules.append(self._rule(f"{_regex(f' {labels}')} {runs} ({_regex(self.words.joins + labels)} {runs})*"))
            if level == "Satz":  # `zweiter Satz`, `, 2e phrase`, with a comma before the act
                sentences = self.words.sentences
                rules += [
                    _regex(f",? {sentences[int(value) - 1]} {labels.rstrip()},?") for value in values if value in "1234"
                ]
        return self._any(rules)

    def _runs(self, path: CitationPath, level: str, values: dict[str, _Parts], act: str) -> str:
        """Values of one level in rising order, with their parts: `1 lit. a, 2 und 3`."""
        ordered = sorted(values, key=_order)
        runs: dict[str, str] = {}
        for place in range(len(ordered) - 1, -1, -1):
            value, later = ordered[place], ordered[place + 1 :]
            here = (*path, (level, value))
            own = self._parts_of(here, values[value], act)
            following = self._any(runs[other] for other in later if self._follows(here, other))
            on = f" ({_regex(self.words.joins)} {following})?" if following else ""
            up_to = self._any(map(_literal, later))
            rules = [f"{_literal(value)}{on}"]
            if up_to:
                rules.append(f"{_literal(value)} /[-–]/ {up_to}")
            if own:  # behind a part with a number, a bare number is of that part
                lettered = set(values[value].of) == {"lit."} and not any(
                    p.of for p in values[value].of["lit."].values()
                )
                rules.append(f"{_literal(value)} {own}{on if level == 'lit.' or lettered else ''}")
            runs[value] = self._any(rules)
        return self._any(runs.values())

    def _follows(self, here: CitationPath, value: str) -> bool:
        if here[-1][0] == "lit.":
            return value.isalpha() and 0 < ord(value[0]) - ord(here[-1][1][-1]) < 12
        return goes_on(here, len(here) - 1, value)

    # Considerations and judgments

    def _considerations(self) -> str:
        """The rule of lists of the decision's considerations; empty if it has no numbers."""
        names = [n for n in self.cited.names if self._reads(f"E. {n}", Citation("consideration", (("E.", n),)))]
        if not names:
            return ""
        letters: dict[str, list[str]] = {}
        for name in names:
            if re.fullmatch(r"\d[\d.]*[a-z]", name):
                letters.setdefault(name[:-1], []).append(name[-1])
        join = _regex(rf"({JOIN.replace('(?:', '(')})")
        one = [_literal(name) for name in names]
        for number, some in letters.items():
            run = ""
            for place in range(len(some) - 1, -1, -1):
                dash = self._any(map(_literal, some[place + 1 :]))
                run_here = _literal(some[place])
                rules = [run_here + (f" ({join} {run} | /[-–]/ {dash})?" if run else "")]
                run = self._any([*rules, run] if run else rules)
            one.append(f"{_literal(number)} {run}")
            if number in names:
                one.append(f'{_literal(number)} " " {run}')
        number = self._any(one)
        several = self._rule(f"{number} (/[-–]/ {self._any(map(_literal, names))} | {_regex(self.words.following)})?")
        return self._rule(f"{_regex(_WHERE)} {several} ({join} {several})*")

    def _judgments(self) -> str:
        """Other judgments, and acts by their number, as the decision cites them."""
        written = []
        for citation in self.cited.citations:
            if citation.kind in ("decision", "docket", "act"):
                for depth in range(1, len(citation.path) + 1):
                    part = Citation(citation.kind, citation.path[:depth])
                    words = [word for level in part.path for word in level if word]
                    text = " ".join(self.words.collections.get(word, word) for word in words)
                    if self._reads(text, part):
                        written.append(_literal(text))
        return self._any(written)


def _merge(into: _Parts, other: _Parts) -> None:
    for level, values in other.of.items():
        for value, parts in values.items():
            _merge(into.of.setdefault(level, {}).setdefault(value, _Parts()), parts)


def _paths(path: CitationPath, parts: _Parts) -> Iterator[CitationPath]:
    for level, values in parts.of.items():
        for value, deeper in values.items():
            yield (*path, (level, value))
            yield from _paths((*path, (level, value)), deeper)


def _inside(value: str) -> list[str]:
    """What a value stands for: of a range its ends and what lies between, of `12 ff.` the first."""
    ends = value.split(" ")[0].split("-")
    first, last = ends[0], ends[-1]
    if first.isdecimal() and last.isdecimal() and 0 < int(last) - int(first) <= _INSIDE:
        return [str(number) for number in range(int(first), int(last) + 1)]
    return list(dict.fromkeys(ends))


def _order(value: str) -> tuple[int, str]:
    digits = re.match(r"\d+", value)
    return (int(digits[0]), value) if digits else (0, value)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _regex(pattern: str) -> str:
    plain = pattern.replace("(?:", "(").replace("(?=['’])", "['’]").replace(r"\d", "[0-9]").replace(r"\s", "[ \\n]")
    plain = plain.replace(r"[\w", f"[{_LETTERS}").replace(r"[^\w", f"[^{_LETTERS}")
    plain = plain.replace(r"\w", f"[{_LETTERS}]").replace(r"\W", f"[^{_LETTERS}]")
    return "/" + re.sub(r"(?<!\\)/", r"\/", plain) + "/"


def _one_of(patterns: Iterable[str]) -> str:
    return f"({'|'.join(patterns)})"
