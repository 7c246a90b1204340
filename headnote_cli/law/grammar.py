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

from headnote_cli.law.acts import abbreviations, adjectives, base, is_known, treaties
from headnote_cli.law.articles import CitationPath, goes_on
from headnote_cli.law.citations import Citation, Cited, Status, citations
from headnote_cli.law.language import LANGUAGES
from headnote_cli.law.numbers import JOIN, SURELY_FOLLOWING
from headnote_cli.law.titles import DATE, MONTHS, dates, day_of, names_at_any_time, titles_of

# The characters of a grounded headnote: those of the parser's plain text, less all that no headnote has.
_PLAIN = r"\n -_a-~¡-¬®-³µ-¹»-ɏ–’“”„…€‹›•"
_LETTERS = "0-9A-Z_a-zª²³µ¹¼-¾À-ÖØ-öø-ɏ"
_ANY = r"(.|\n)*"
_WORD_ENDS = r"((.|\n)*\W)?"  # before a word
_APART = r"[^\w;:]*"  # between `Art.` and its number: blanks, brackets, quotes
_NUMBERS = r"(\d|[IVX]+[^\w.'’/]|[IVX]+\s?[/.]\s?\d)"  # `3`, `II`, `I/2`
_IN_WORDS = (  # beginnings of citations, wherever they stand
    rf"[Aa]rt([ts]?\.|ikeln?s?|icles?|icol[oi])?{_APART}\d",
    rf"§{_APART}\d",
    rf"(Anhangs?|Anh\.|[Aa]nnexe|[Aa]llegato){_APART}([IVX]+\W|\d)",
    rf"([Cc]ons(id)?\.|Erw\.|Erwägung(en)?|[Cc]onsidérants?|[Cc]onsiderand[oi]){_APART}{_NUMBERS}",
    rf"(BGE|ATF|DTF|RO|RU){_APART}\d{{1,3}}\s*[IV]",
    rf"(EVGE|ATFA|STFA|BVGE|ATAF|DTAF|TPF){_APART}\d{{4}}",
    r"\d[A-Z](_|\.)\s?\d",
    "  ",  # the parser reads two spaces as one
)
_AS_WORDS = (  # those that may be the end of a word, and then are none
    rf"(E\.|c\.){_APART}{_NUMBERS}",
    r"(SR|RS)\s?(0\.\d|\d{3})",
    r"(BB|BE|BG|BH|BK|BP|BV|CA|CN|CR|RH|RP|RR|SK|SN|TPF)\.20\d",
    r"[BCEHIKMPU] \d{1,4}/\d",
    r"[A-F]-[1-9]\d{0,4}/20",
    r"[ABCEKP]\.\s?\d{1,4}/(19|20)",
)
_AT_THE_END = (
    rf"(Anhangs?|Anh\.|[Aa]nnexe|[Aa]llegato|[Cc]ons(id)?\.|Erw\.|Erwägung(en)?|[Cc]onsidérants?|[Cc]onsiderand[oi]"
    rf"|E\.|c\.){_APART}[IVX]*|(BGE|ATF|DTF|RO|RU){_APART}\d{{1,3}}\s*"
)
# What follows a citation, and does not go on with it: a sign, or a word that does not; behind that, all is free. (That
# the whole of the text does not begin with such words would be simpler to say, and is too much for the lexer.)
_SIGN, _CLOSES, _BLANK = r" ?[;:)\]»]", r" ?[:)\]»]", r"[ \n]"
_APART_FROM = r"[^\w./,–-]"  # what goes between two citations: behind a comma, an article's act would be the next one's
_NO_LETTER = r"[^\w./-]"  # before a citation: behind a full stop, say, no case number is read
_WORD = r"([A-ZÄÖÜ][a-zà-ÿ]|[a-zà-ÿ]{2})[a-zà-ÿ]*"
_ELIDED = r"(([lL]|[dD]|s|n|c|qu|dell|nell|all|dall|sull|un|lorsqu|puisqu|jusqu)['’])?"
_AS_A_WORD = r" ?[«\"„“]| [(][0-9]| ([èàò]|n['’]a) "
_WORD_END = r"[ \n,;:)\]»'’]"
_JOINERS = (
    r"und|ed?|et|sowie|ou?|oder|in|en|ainsi|come|par|su|con|cum|mit|wie|als|je|insbesondere|namentlich|notamment"
    r"|segnatamente|unitamente|combin[a-zé]*|nonch[éè]|beziehungsweise|respektive|respectivement|rispettivamente|bis|à|a"
    r"|bzw|resp|insb|iVm|spéc|partic"
)
_ESPECIALLY = r", (insb\.|insbesondere|namentlich|notamment|en particulier|spéc\.|segnatamente|in particolare)"
_PARTS = (
    r"[an]?[Aa]rt[a-zà-ÿ]*|Anhangs?|[Aa]nnexe|[Aa]llegato|Erw[a-zä]*|[Cc]onsid[a-zé]*|[Cc]ons|Satz|phrase|frase|periodo|primo?|alinéa"
    r"|comma|al|cpv|cp|litt?|let|lett|lettre|lettera|ch|cifra|num|chiffre|Abs|Absatz|Ziff|Ziffer|Nr|Bst|par"
)
_SECOND = (  # words that end what joins: `in Verbindung mit`
    r"Verb|Verbindung|relation|rel|lien|liaison|corrélation|relazione|combinato|combinazione|que|qu|pure|renvoi|rinvio"
    r"|auch|avec|mit|con|particulier|particolare|aaa?|bbb?|ccc?|ddd?|eee?|ff|ggg?|hhh?"
)
_CANTONS = (  # as adjectives, whole or abbreviated to five letters at least
    r"argo|bern|frib|genev|ginev|glar|gris|grig|juras|giura|lucer|neuch|neoca|nidw|obwa|saint|sanga|schaf|sciaf|soleu"
    r"|solet|schw[yi]|svitt|thurg|turg|tess|ticin|uran|vaud|vod|valai|valle|zoug|zug|zur|zür|bâl|basil|canto"
)
_ORDINALS = r"erste|zweite|dritte|vierte|letzte|premi|deuxi|second|troisi|quatri|derni|prim|terz|quart|ultim"
_NOT_BEHIND_AN_ACT = rf"({_CANTONS}|{_ORDINALS})[a-zà-ÿ-]*"
_NOT_BEHIND_A_NUMBER = (
    r"von|vom|des|aus|du|de|del|della|ff|ss|segg?|sgg|[a-h]?(aaa?|bbb?|ccc?|ddd?|eee?|fff?|ggg?|hhh?)"
)
_NOT_BEHIND_A_JUDGMENT = (
    r"pag|ff|ss|segg?|sgg|vom|du|del|dell|fine|cité[a-z]*|cit|zit|zitiert[a-z]*|[a-z]*(erwähnt|genannt)[a-z]*"
    r"|mentionné[a-z]*|menzionat[a-z]*|visé[a-z]*|pré|précité[a-z]*|susmentionné[a-z]*|loc|op|già|déjà|ci-[a-z-]*"
)
# An article of an act that has no name of its own in all languages may be followed by any title but those of acts that
# have one: up to the next sign no word begins as the names of codes and treaties do, and none is of the Confederation.
_OF_TITLE = r",? ((der|des|dieser|de la|du|de|della|del|dei|delle) |(de l|dell)['’] ?)"
_TITLE_WORD, _TITLE_GAP = r"[A-Za-zÀ-ɏ-]+", "[ ,'’\"“”„«»/]{1,3}"
_CONSTITUTION = r"([Kk]antons)?[Vv]erfassung|[Cc]onstitution|[Cc]ostituzione"
_FEDERAL = (
    r"([Bb]undes|[Ee]idgen|[Ss]chweiz|[Ff]édér|[Ss]uiss|[Cc]onféd|[Ff]edera|[Ss]vizzer|[Cc]onfed|[A-Za-zÀ-ɏ]+[A-ZÄÖÜ])"
    r"[A-Za-zÀ-ɏ-]*"
)
_LIKE_A_WORD = "Cst|Cost|Clug|O[a-zé]{3,7}|Limp[a-z]*|L(ferr|tém)|Rform"  # abbreviations of acts
_UP_TO_A_DAY = (
    r"(zum|au|al) [0-9]{1,2}(\.|er|°)? [A-Za-zà-ÿ]{3,9} [0-9]{4}"  # of a wording: `bis zum 31. Dezember 2019`
)
_CLOSES_TITLE = "[.)»]{1,2}"
_ANCHORS = {
    "Art.": r"(a?[Aa]rtt?\. ?|([Aa]rt|Artikeln?|[Aa]rticles?|[Aa]rticol[oi]) )",
    "§": "§{1,2} ?",
    "Anhang": r"(Anhang|[Aa]nnexe|[Aa]llegato) ",
}
_PLACE = r" (in fine|i\.f\.|a\.E\.|in initio|in limine)"  # where in an article or a paragraph
_TO = "/( ?[-–] ?| (bis|à|a) )/"
_WHERE = r"(E\.|Erw\.|Erwägung(en)?|[Cc]ons(id)?\.|[Cc]onsidérants?|[Cc]onsiderand[oi]|c\.) ?"


@dataclass(frozen=True)
class _Words:
    """How the court writes citations in a language; all are regular expressions but the collections.

    Attributes:
        joins: Between the articles and parts of a list.
        again: Before another `Art.` of a list.
        anew: Before one behind the act, but for its last sign.
        of: Between an article and its act.
        following: `ff.`, and `ff` one form of it.
        levels: Of an article's parts; `paragraph` of a treaty's.
        sentences: The first, the second …
        parts: Of acts, by the parser's name of them.
    """

    joins: str
    again: str
    anew: str
    of: str
    following: str
    ff: str
    levels: dict[str, str]
    sentences: tuple[str, ...]
    paragraph: str
    parts: dict[str, str]
    collections: dict[str, str]
    before_titles: tuple[str, ...]
    union: dict[str, str]
    union_number: str
    federal: str


_WORDS = {
    "de": _Words(
        joins=r"(, |,? (und|sowie|wie auch|oder|bzw\.|i\. ?V\. ?m\.|in Verbindung mit) )",
        again="(mit |von |des )?",
        anew="(mit|von|des)",
        of="( (der|des|zum))? ",
        following=r"( ?ff\.| f\.)",
        ff="ff.",
        levels={"Abs.": r"Abs\.? ?", "lit.": r"(lit|Bst)\. ?", "Ziff.": r"(Ziff|Nr)\. ?", "Satz": "Satz "},
        sentences=("(erster|1.)", "(zweiter|2.)", "(dritter|3.)", "(vierter|4.)"),
        paragraph=r"(Abs|Ziff)\. ?",
        parts={"Anhang": "Anhang", "SchlT": "SchlT", "ÜBest": "ÜBest", "SchlB": "SchlB"},
        collections={"E.": "E.", "S.": "S."},
        before_titles=(" der ", " des "),
        union={"VO": "Verordnung", "RL": "Richtlinie"},
        union_number=r"(\((EG|EWG|EU)\) )?(Nr\. )?",
        federal="(Bundesgesetz(es)?|Bundesbeschluss(es)?|BG|BB) ",
    ),
    "fr": _Words(
        joins=r"(, | ainsi qu['’]|,? (et|ou|ainsi que|en (relation|lien|liaison|corrélation) avec|cum|par renvoi de) )",
        again="(l['’]|de l['’]|à l['’]|aux? |des |les )?(ancien )?",
        anew="(l|de l|à l|aux?|des|les|(l['’]|de l['’])?ancien)",
        of="(( (de la|du|des))? | de l['’])",
        following=r"( et)? (ss?\.?|suivants)",
        ff="ss",
        levels={"Abs.": r"al\.? ?", "lit.": r"((let|litt?)\. ?|lettres? )", "Ziff.": r"ch\.? ?", "Satz": "phrase "},
        sentences=("(première|1re)", "(deuxième|seconde|2e|2ème)", "(troisième|3e|3ème)", "(quatrième|4e|4ème)"),
        paragraph=r"(par|al|ch)\. ?",
        parts={"Anhang": "annexe", "SchlT": "tit. fin.", "ÜBest": "disp. trans.", "SchlB": "disp. fin."},
        collections={"BGE": "ATF", "EVGE": "ATFA", "BVGE": "ATAF", "SR": "RS", "E.": "consid.", "S.": "p."},
        before_titles=(" de la ", " du ", " de l'"),
        union={"VO": "règlement", "RL": "directive"},
        union_number=r"(\((CE|CEE|UE)\) )?(n° )?",
        federal="(loi fédérale|arrêté fédéral|LF|AF) ",
    ),
    "it": _Words(
        joins=r"(, |,? (e|ed|o|nonché|come pure|in relazione( con)?|in combinato disposto con|in combinazione con) )",
        again="(l['’]|gli |dell['’]|all['’]|degli |agli )?(vecchio )?",
        anew="(l|gli|dell|all|degli|agli|vecchio)",
        of="(( (della|del|dei))? | dell['’])",
        following=r"( e)? segg?\.",
        ff="segg.",
        levels={"Abs.": r"cpv\.? ?", "lit.": r"lett\. ?", "Ziff.": r"(cifra |n(um)?\. ?)", "Satz": "(frase|periodo) "},
        sentences=("(prim[ao]|1a)", "(second[ao]|2a)", "(terz[ao]|3a)", "(quart[ao]|4a)"),
        paragraph=r"(par|cpv|n)\. ?",
        parts={"Anhang": "allegato", "SchlT": "tit. fin.", "ÜBest": "disp. trans.", "SchlB": "disp. fin."},
        collections={"BGE": "DTF", "EVGE": "STFA", "BVGE": "DTAF", "SR": "RS", "E.": "consid.", "S.": "pag."},
        before_titles=(" della ", " del ", " dell'"),
        union={"VO": "regolamento", "RL": "direttiva"},
        union_number=r"(\((CE|CEE|UE)\) )?(n\. )?",
        federal="(legge federale|decreto federale|LF|DF) ",
    ),
}
_ACT = re.compile(r"(?:(?P<part>SchlT|SchlB|ÜBest|Anhang (?P<annex>\S+)) )?(?P<base>.+)")
_GENITIVE = re.compile(r"(?<=gesetz)(?!\w)|(?<=buch)(?!\w)")  # `Gesetzes`, `Gesetzbuches`
# Latin numerals by letters that stand in their order: `27bis`, `27ter`, `27quater`.
_LATIN = dict(zip("bis ter quater quinquies sexies septies octies novies decies".split(), "bcdefghij", strict=True))
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
        self.rules: dict[str, str] = {}  # the name of each rule, by the rule
        self.names: dict[str, list[str]] = {}  # of each act

    def text(self) -> str:
        """Free text, then citations, each with what follows it. The parts between two citations end before a sign or a
        blank, with which the next one begins."""
        named, bare, titled = self._articles()
        considerations, judgments = self._considerations(), self._judgments()
        articles = [f"{named} ({self._behind_act()})?"] if named else []
        cites_sections = any(citation.path[0][0] == "§" for citation in self.cited.citations)
        if bare:  # `Art. 23 § 56` is a paragraph of it
            articles.append(f"{bare} ({self._behind_bare()}){'' if cites_sections else '?'}")
        articles += [f"{titled} {self._title()} ({self._behind_title()})?"] if titled else []
        cited = list(articles)
        if considerations:
            cited.append(f"{considerations} ({self._behind_number()})?")
        if judgments:
            cited.append(f"{judgments} ({self._behind_judgment(self._any(articles))})")
        begins = f"{_ANY}{_one_of(_IN_WORDS)}{_ANY}|{_WORD_ENDS}({_one_of(_AS_WORDS)}{_ANY}|{_AT_THE_END})"
        rules = {"start": "WHOLE", "WHOLE": "TEXT", "TEXT": f"/[{_PLAIN}]*/ & ~{_regex(begins)}"}
        if cited:
            rules["WHOLE"] = f"TEXT | (TEXT {_regex(_NO_LETTER)})? CITED ({_regex(_APART_FROM)} CITED)*"
            rules["CITED"] = " | ".join(cited)
        rules |= {name: rule for rule, name in self.rules.items()}
        return "".join(f"{name}: {rule}\n" for name, rule in rules.items())

    def _behind_act(self) -> str:
        rules = [f'"."? {_regex(_SIGN)} TEXT', f'"." ({_regex(_BLANK)} TEXT)?', f"{_regex(_AS_A_WORD)} TEXT"]
        rules.append(f'" (" {self._word(f"{_SECOND}|{_LIKE_A_WORD}")} {_regex(_WORD_END)} TEXT')
        rules.append(f'{self._joins()} (" " {_regex(self.words.anew)})?')
        cantons = [name[:-1] for name in adjectives() if name.endswith(".")] if self.language == "de" else []
        forbidden = "|".join([_NOT_BEHIND_AN_ACT, *sorted(cantons)])
        return self._any(rules + self._words_behind(forbidden, _ELIDED))

    def _behind_bare(self) -> str:
        """Behind an article without an act: of `41 ff. OR`, the full stop is no sign."""
        return self._any([f"{_regex(_SIGN)} TEXT", f'"." ({self._first(_JOINERS)} {_regex(_WORD_END)} TEXT)?'])

    def _behind_number(self) -> str:
        """Behind a consideration: a semicolon, or a comma behind `ff.`, may go on with another one."""
        rules = [f'"."? {_regex(_CLOSES)} TEXT', self._anew(_NOT_BEHIND_A_NUMBER), _regex(_ESPECIALLY)]
        rules += [f"{_regex(_AS_A_WORD)} TEXT", '"." | ";"', self._joins()]
        return self._any(rules + self._words_behind(_NOT_BEHIND_A_NUMBER))

    def _behind_judgment(self, articles: str) -> str:
        """Behind a judgment: a consideration that follows directly, or behind a comma, would be the judgment's."""
        rules = [f"{_regex(_CLOSES)} TEXT", self._anew(_JOINERS), '"." | ";"']
        rules += [f'" "? {word}' for word in self._words_behind(_NOT_BEHIND_A_JUDGMENT)]
        rules += [f"{_regex(f',? {self.words.again}')} {articles}"] if articles else []
        return self._any(rules)

    def _title(self) -> str:
        """A title that no code, no treaty and no act of the Confederation has, with what goes before it."""
        names = names_at_any_time(self.language)
        known = "|".join(r"[a-zà-ÿ]{0,3}[ '’]".join(map(_capital_or_not, words)) for words in names)
        word = self._rule(f"{_regex(_TITLE_WORD)} & ~{_regex(f'{_FEDERAL}|{_LIKE_A_WORD}')} | {_regex(_UP_TO_A_DAY)}")
        words = self._rule(f"{word} ({_regex(_TITLE_GAP)} {word})*")
        dates = self._any(map(_literal, self._dates()))
        title = f"({words} & ~{_regex(f'({known}|{_CONSTITUTION}){_ANY}')})"
        if dates:  # such a date is of no act of the Confederation that has a name
            rest = self._rule(f"({_regex(_TITLE_GAP)} {word})*")
            title = f'({title} | {title} " " {dates} {rest} | {_regex(self.words.federal)} {dates} {rest})'
        return self._rule(f"{_regex(_OF_TITLE)} {title}")

    def _dates(self) -> list[str]:
        """The decision's dates that no act with a title has, in the language: `du 3 mai 2010`."""
        months = MONTHS.split("|")[12 * LANGUAGES.index(self.language) :]
        of, dot, first = {"de": ("vom ", ".", ""), "fr": ("du ", "", "er"), "it": ("del ", "", "°")}[self.language]
        days = sorted({day_of(date) for date in DATE.finditer(self.cited.decision)} - dates())
        written = []
        for day in days:
            year, month, number = day.split("-")
            of_month = f"{int(number)}{first if number == '01' else dot}"
            written.append(f"{of}{of_month} {months[int(month) - 1]} {year}")
        return written

    def _behind_title(self) -> str:
        """Behind a title: a sign, but no bracket with another abbreviation, and no number as behind `Art.`"""
        anew = f"{_regex(_CLOSES_TITLE)} {self._first(_SECOND, _ELIDED)} {_regex(_WORD_END)} TEXT"
        in_brackets = f'" (" {self._word(_JOINERS)} {_regex(_WORD_END)} TEXT'
        return self._any([f"{_regex('[;:]')} TEXT", anew, in_brackets, _regex("[,. ]|[)»] ?")])

    def _anew(self, forbidden: str) -> str:
        """A full stop or a semicolon with a word that goes on with nothing, `; vgl.`, and free text."""
        first = self._first(f"{forbidden}|{_JOINERS}")
        return self._rule(f'{_regex("[.;]")} {first} ({_regex(_WORD_END)} TEXT | "." ({_regex(_BLANK)} TEXT)?)')

    def _words_behind(self, forbidden: str, elided: str = "") -> list[str]:
        """Rules of a first word, or of a second one behind a word that joins, and of what may follow it.

        Args:
            forbidden: First words.
            elided: What may go before a word; not behind a number: `E. 2 d'un arrêt`.
        """
        second = f"({_regex(elided)} {self._word(_SECOND)} | /[aàeo]/)" if elided else self._word(_SECOND)
        joined = self._rule(f"({_regex(f',? ({_JOINERS}),? ')} | {_regex(self.words.joins)}) {second}")
        first = self._first(f"{forbidden}|{_JOINERS}", elided)
        ends = [f"{_regex(_WORD_END)} TEXT"]
        if self.language == "de" or not elided:  # `CO neuch.` is another act
            ends.append(f'"." ({_regex(_BLANK)} TEXT)?')
        return [f"{self._any([first, joined])} ({' | '.join(ends)})?"]

    def _joins(self) -> str:
        """What joins another citation, but for its last sign: a blank, or a bracket behind a blank."""
        return self._rule(f'"," | " " | {_regex(self.words.joins.replace(" )", ")"))}')

    def _first(self, forbidden: str, elided: str = "") -> str:
        """A first word with the space before it, none of these."""
        return self._rule(f"{_regex(f',? ([-–] )?{elided}')} {self._word(forbidden)}")

    def _word(self, forbidden: str) -> str:
        """A word, none of these, nor one that begins or goes on with a citation."""
        return self._rule(f"{_regex(_WORD)} & ~{_regex(f'{forbidden}|{_PARTS}')}")

    def _rule(self, rule: str) -> str:
        """The name of a rule."""
        return self.rules.setdefault(rule, f"R{len(self.rules)}")

    def _any(self, rules: Iterable[str]) -> str:
        """One of several, empty if there are none."""
        alternatives = sorted(set(rules))
        return self._rule(" | ".join(alternatives)) if alternatives else ""

    def _name(self, name: str) -> str:
        """The rule of a name, also with the blank that a turned line leaves behind a slash: `LAN/ TI`."""
        forms = [name, name.replace("/", "/ ")]
        if " " in name:  # `ordonnance 2 COVID-19`
            forms += [f"{first}{name[1:]}" for first in (name[0].upper(), name[0].lower())]
        return self._any(map(_literal, forms))

    def _reads(self, text: str, citation: Citation, statuses: Sequence[Status] = ("found",)) -> bool:
        """Whether the parser reads a text as this citation alone, and the decision has it."""
        read = [self.cited.named(citation) for citation in citations(text, self.language, self.cited.year)]
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
        named: dict[str, list[str]] = {}
        for act, labels in of_acts.items():
            if name := self._act(act):
                for label, listed in self._lists(labels, act).items():
                    named.setdefault(label, []).append(self._rule(f"{listed} {name}"))
        lists = []
        for label, some in named.items():  # behind an act, a number is an article if an act follows it
            one = self._any(some)
            lists.append(f"{_regex(_ANCHORS[label])} {one} ({_regex(self.words.joins)} {one})*")
        bare = _together([*of_acts.values(), unnamed])
        titled = _together([unnamed, *(labels for act, labels in of_acts.items() if not is_known(act))])
        for labels in (bare, titled):
            labels.pop("Anhang", None)  # without an act, it is not read as a citation
        return self._any(lists), self._anchored(bare), self._anchored(titled)

    def _anchored(self, labels: dict[str, dict[str, _Parts]]) -> str:
        """The rule of lists of articles without an act; empty if there are none."""
        return self._any(f"{_regex(_ANCHORS[label])} {listed}" for label, listed in self._lists(labels, "").items())

    def _names(self, act: str) -> list[str]:
        """What an act is called in the language, by the parser's reading: its abbreviations, also as a former act."""
        match = _ACT.fullmatch(act)
        if match is None:
            return []
        own, slash, canton = match["base"].partition("/") if not act.startswith(("VO ", "RL ")) else (act, "", "")
        known = abbreviations("BV" if own == "KV" else own, self.language)
        names = sorted(name for name in known if f"{name}." not in known) or [own]  # of `Cost` and `Cost.`, `Cost.`
        part = self.words.parts.get((match["part"] or "").split(" ")[0], "")
        before = " ".join(filter(None, [part, match["annex"]])) + " " if part else ""
        written = [f"{before}{name}{slash}{canton}" for name in dict.fromkeys([*names, own])]
        if slash:  # `Cst. gen.`
            of = [adjective for adjective, name in adjectives().items() if name == canton]
            written += [f"{name} {adjective}" for name in names for adjective in of]
        former = [f"{letter}{name}" for name in written for letter in "av" if name[0].isupper()]
        short = [own] if slash and not is_known(own) and self._is_read(f"Art. 1 {own}", own) else []
        return [name for name in (*written, *former) if self._is_read(f"Art. 1 {name}", act)] + short

    def _titles(self, act: str, name: str) -> str:
        """The rule of an act's titles with what goes before them, and its abbreviation in brackets; empty if it has
        none. Where the title alone does not say which act it is, the brackets must follow."""
        if act.startswith(("VO ", "RL ")):
            return self._european(act)
        if not is_known(act):
            return self._rule(f'{self._title()} " (" {self._name(name)} ")"')
        alone, with_name = [], []
        for title in titles_of(act, self.language):
            title = _GENITIVE.sub("es", title, count=1) if self.language == "de" else title
            for of in self.words.before_titles:
                rule = f"{_literal(of)} {_regex(f'[{title[0].upper()}{title[0].lower()}]')} {_literal(title[1:])}"
                if self._is_read(f"Art. 1{of}{title}", act):
                    alone.append(rule)
                elif name and self._is_read(f"Art. 1{of}{title} ({name})", act):
                    with_name.append(rule)
        brackets = f'" (" {_literal(name)} ("; " /(SR|RS) [0-9.]*/)? ")"' if name else ""
        rules = [f"{self._any(alone)} ({brackets})?" if brackets else self._any(alone)] if alone else []
        rules += [f"{self._any(with_name)} {brackets}"] if with_name else []
        return self._any(rules)

    def _european(self, act: str) -> str:
        """The rule of an act of the European Union: `der Verordnung (EG) Nr. 883/2004`."""
        kind, number = self.words.union[act[:2]], act[3:]
        if not self._is_read(f"Art. 1{self.words.before_titles[0]}{kind} {number}", act):
            return ""
        of = self._any(map(_literal, self.words.before_titles))
        return self._rule(f"{of} {_regex(f'{_capital_or_not(kind)} {self.words.union_number}')} {self._name(number)}")

    def _is_read(self, text: str, act: str) -> bool:
        read = [self.cited.named(citation) for citation in citations(text, self.language, self.cited.year)]
        return [(citation.path, citation.act) for citation in read] == [((("Art.", "1"),), act)]

    def _act(self, act: str) -> str:
        """The rule of an act's names with what goes before them; empty if it has none in the language."""
        names = self.names[act] = self._names(act)
        rules = [f'" " {self._any(map(self._name, names))}'] if names else []
        of = [
            name for name in names if is_known(act) and self._is_read(f"Art. 1{self.words.before_titles[0]}{name}", act)
        ]
        rules += [f"{_regex(self.words.of)} {self._any(map(self._name, of))}"] if of else []
        titles = self._titles(act, names[0] if names else "")
        return self._any([*rules, titles] if titles else rules)

    def _lists(self, labels: dict[str, dict[str, _Parts]], act: str) -> dict[str, str]:
        """The rules of lists of an act's articles, without the first `Art.`, by label."""
        return {label: rule for label, numbers in labels.items() if (rule := self._list(label, numbers, act))}

    def _list(self, label: str, numbers: dict[str, _Parts], act: str) -> str:
        """A list of articles: `8, 9 und 29 Abs. 2`, with another `Art.` or without.

        Without, a number that follows a part of an article (`Abs. 1 und 2`) may be another part; only those follow that
        the parser takes for an article.
        """
        statuses: Sequence[Status] = ("found",) if act else ("found", "partly")
        behind = f" {names[0]}" if (names := self.names.get(act)) else ""
        found = [
            n for n in numbers if self._reads(f"{label} {n}{behind}", Citation("article", ((label, n),), act), statuses)
        ]
        if not found:
            return ""
        following = f"{_regex(self.words.following)}?"
        plain = self._rule(f"{self._ranges(found)} {following}")
        deep = {n: rule for n in found if (rule := self._parts_of(((label, n),), numbers[n], act))}
        parted = self._any(f"{self._value(n)} {rule}" for n, rule in deep.items())
        item = self._rule(f"({plain} | {parted}) {_regex(_PLACE)}?" if parted else f"{plain} {_regex(_PLACE)}?")
        comma = _regex(self.words.joins)
        block = self._rule(f"({plain} {comma})* {item}")
        safe = _surely_articles(found, [path for n in deep for path in _paths(((label, n),), numbers[n])])
        further = [f"{comma} {_regex(self.words.again + _ANCHORS[label])} {block}"]
        if safe:
            clear = self._any(map(_literal, safe))
            further.append(f"{comma} {clear} {following} ({comma} {block})?")
        by_paragraph = {n: _Parts({"Abs.": numbers[n].of["Abs."]}) for n in deep if "Abs." in numbers[n].of}
        clear_parts = [f"{_literal(n)} {deep[n]}" for n in deep if n in safe]
        clear_parts += [
            f"{_literal(n)} {self._parts_of(((label, n),), parts, act)}"
            for n, parts in by_paragraph.items()
            if n not in safe
        ]
        if clear_parts:
            further.append(f"{comma} {self._any(clear_parts)}")
        return self._rule(f"{block} {self._any(further)}*")

    def _ranges(self, values: Iterable[str]) -> str:
        """The rule of numbers, and of ranges from one to a later one."""
        rules, later = [], ""
        for value in sorted(values, key=_order, reverse=True):
            rules.append(f"{self._value(value)} ({_TO} {later})?" if later else self._value(value))
            later = self._any([self._value(value), later] if later else [self._value(value)])
        return self._any(rules)

    def _parts_of(self, path: CitationPath, parts: _Parts, act: str) -> str:
        """The rule of an article's parts, with the space before them: ` Abs. 1 lit. a und c`; empty if it has none."""
        rules = []
        for level, values in parts.of.items():
            labels = self.words.levels.get(level)
            if labels is None:
                continue
            if len(path) == 1 and level != "lit." and (base(act) in treaties() or act.startswith(("VO ", "RL "))):
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
            rules = [f"{self._value(value)}{on}"]
            if up_to:
                rules.append(f"{self._value(value)} {_TO} {up_to}")
            if own:  # behind a part with a number, a bare number is of that part
                lettered = set(values[value].of) == {"lit."} and not any(
                    p.of for p in values[value].of["lit."].values()
                )
                rules.append(f"{self._value(value)} {own}{on if level == 'lit.' or lettered else ''}")
            runs[value] = self._any(rules)
        return self._any(runs.values())

    def _value(self, value: str) -> str:
        """A number as the language writes it: the first is `1er` in French, too."""
        if value == "1" and self.language == "fr":
            return '("1" | "1er")'
        return self._any([_literal(value), _literal(value.replace("/", " "))])  # `3b aa` for 3b/aa

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
        one: list[str] = []
        for number, some in letters.items():
            some.sort()
            run = ""
            for place in range(len(some) - 1, -1, -1):
                dash = self._any(map(_literal, some[place + 1 :]))
                run_here = _literal(some[place])
                rules = [run_here + (f" ({join} {run} | {_TO} {dash})?" if run else "")]
                run = self._any([*rules, run] if run else rules)
            one.append(f"{_literal(number)} {run}")
            apart = r" (litt?|lett?)\. | " if number in names else r" (litt?|lett?)\. "  # `3 a` may be read as 3
            one.append(f"{_literal(number)} {_regex(apart)} {run}")
        numbers = [name for name in names if name[-1].isdecimal()]  # of `2b ff.` the parser makes 2b/ff
        one += [f"{self._ranges(numbers)} {_regex(f'{self.words.following}|f')}"] if numbers else []
        several = self._any([*one, self._ranges(names)])
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
                    older = re.sub("^(ATF|DTF) ", lambda name: {"ATF ": "RO ", "DTF ": "RU "}[name[0]], text)
                    whole, where, number = text.partition(f" {self.words.collections['E.']} ")
                    ranged = f"{whole} {self.words.ff}{where}{number}"  # `ATF 131 V 246 ss consid. 5`
                    written += [form for form in dict.fromkeys((text, older, ranged)) if self._reads(form, part)]
        return self._any(map(_literal, written))


def _together(acts: Iterable[dict[str, dict[str, _Parts]]]) -> dict[str, dict[str, _Parts]]:
    """The articles of several acts, by label and number."""
    together: dict[str, dict[str, _Parts]] = {}
    for labels in acts:
        for label, numbers in labels.items():
            for number, parts in numbers.items():
                _merge(together.setdefault(label, {}).setdefault(number, _Parts()), parts)
    return together


def _merge(into: _Parts, other: _Parts) -> None:
    for level, values in other.of.items():
        for value, parts in values.items():
            _merge(into.of.setdefault(level, {}).setdefault(value, _Parts()), parts)


def _paths(path: CitationPath, parts: _Parts) -> Iterator[CitationPath]:
    for level, values in parts.of.items():
        for value, deeper in values.items():
            yield (*path, (level, value))
            yield from _paths((*path, (level, value)), deeper)


def _surely_articles(numbers: Sequence[str], paths: Sequence[CitationPath]) -> list[str]:
    """The numbers that behind none of these paths are taken for another part: behind `Abs. 1`, 2 may be one."""
    highest = max((_order(value)[0][0] for path in paths for _, value in path[1:]), default=0)
    return [
        number
        for number in numbers
        if (number.isdecimal() and int(number) > max(9, highest + 3))  # the parser's own bound, for speed
        or not any(goes_on(path, depth, number) for path in paths for depth in range(1, len(path)))
    ]


def _inside(value: str) -> list[str]:
    """What a value stands for: of a range its ends and what lies between, of `12 f.` also 13, of `12 ff.` 14, too."""
    number, _, following = value.partition(" ")
    ends = number.split("-")
    first, last = ends[0], ends[-1]
    if not (first.isdecimal() and last.isdecimal()):
        return list(dict.fromkeys(ends))
    beyond = int(last) + SURELY_FOLLOWING.get(following, 0)
    return [str(one) for one in range(int(first), beyond + 1)] if 0 <= beyond - int(first) <= _INSIDE else ends


def _order(value: str) -> list[tuple[int, str]]:
    """`3.10` comes behind `3.2`, `27bis` behind `27`, `3quater` behind `3ter`."""
    parts = re.findall(r"\d+|\D+", value)
    return [(int(part), "") if part.isdecimal() else (-1, _LATIN.get(part, part)) for part in parts]


def _capital_or_not(word: str) -> str:
    return f"[{word[0].upper()}{word[0]}]{word[1:]}"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _regex(pattern: str) -> str:
    plain = pattern.replace("(?:", "(").replace("(?=['’])", "['’]").replace(r"\d", "[0-9]").replace(r"\s", "[ \\n]")
    plain = plain.replace(r"[\w", f"[{_LETTERS}").replace(r"[^\w", f"[^{_LETTERS}")
    plain = plain.replace(r"\w", f"[{_LETTERS}]").replace(r"\W", f"[^{_LETTERS}]")
    return "/(" + re.sub(r"(?<!\\)/", r"\/", plain) + ")/"


def _one_of(patterns: Iterable[str]) -> str:
    return f"({'|'.join(patterns)})"
