"""Words and signs of a decision's headings: where its law begins, and how considerations are numbered.

The forms were counted on 19,537 decisions of volumes 80 to 145 of the official collection (1954–2019, bger.ch's texts)
and on 1,047 of 2020–2026.
"""

from __future__ import annotations

import re

from headnote_cli.law.titles import MONTHS

# Words before a number that is an article's, a page's or another consideration's.
CITING = frozenset("art abs al cpv ziff ch nr consid e vgl cf cfr".split())

PAGE_MARK = r"(?:(?:BGE|ATF|DTF) \d{1,3} (?:I[ab]?|II|III|IV|V) \d{1,4} )?S\. \d{1,4}"
_CHAPTER = (
    r"(?:(?:Das|Der|Die) [\w.\- ]{3,70}? )?(?:zieht|ziehen) (?:hierzu |nunmehr )?in Erwägung|"
    r"(?:Aus|Auszug aus) den Erwägungen|Extraits? des (?:considérants|motifs)|Extrait du considérant|"
    r"Considérants? en (?:fait et en )?droit|Dai (?:considerandi|motivi)(?: (?:di|in) diritto)?|"
    r"Considera(?:ndo|to) in (?:fatto e in )?diritto|Estratto d(?:ai|ei) (?:considerandi|motivi)"
)
_TITLE = r"(?:Erwägung(?:en)?|Considérants?|Considerandi|Diritto|(?:En )?[Dd]roit|In diritto|Motifs|Begründung)"
_GROUNDS = (
    r"(?:aus|in) folgende[nr] Erwägung(?:en)?|(?:pour|par) les motifs suivants|per i (?:seguenti )?motivi(?: seguenti)?"
)
_NUMBERED = r"(?:[IVX]+\.\s?(?:\d|[A-ZÄÖÜÉÈÀ])|\d{1,2}(?:\.\d{1,2}){0,4}\s?[.\s/]|\(?\.\.\.|[a-z]{1,2}\)\s)"
# `sure`: heads the considerations. Else words that also introduce another court's grounds.
LAW = re.compile(
    rf"(?<!\w)(?:(?P<sure>(?:{_CHAPTER})\s?(?::|(?=\s{_NUMBERED}))|Erwägungen ab Seite \d+|{_TITLE}\s?:|"
    rf"{_TITLE}\s+(?=(?:{PAGE_MARK}\s+)?(?:{_NUMBERED}|(?:{_CHAPTER})\s?:)))"
    rf"|(?:{_GROUNDS})\s?:)\s*(?:{PAGE_MARK}\s+)?"
)

# A heading follows a sentence, a line or a page mark of the official collection (BGE 147 I 89 S. 94).
_AFTER = (
    r"(?:(?<=[.!?:;»)\"\]…]\s)|(?<=[.!?:;»)\"\]…-])|(?<=\n)"
    r"|(?<= S\. \d )|(?<= S\. \d\d )|(?<= S\. \d\d\d )|(?<= S\. \d\d\d\d ))"
)
# `2.2 2.2.1` or `2.2 Frühere Rechtslage 2.2.1`: deep numbers also follow a number or a title without a full stop.
_AFTER_TITLE = (
    r"(?:(?<=\d\s)|(?<=\d\.\s))(?=\d+\.\d)|(?<=[\w)]\s)(?=\d+(?:\.\d+){1,5}\s(?<=[.]1\s)|\d+(?:\.\d+){2,5}\s)"
)
_DASH = r"(?:\s?[-–])?"
_SENTENCE = rf"(?!\s?(?:{MONTHS})\b)(?=\s{{0,3}}(?![a-zà-ü]{{2}}[^)])[\w(\[\"«„….§'’–-])"
_COUNT = (
    rf"(?:(?P<first>\d{{1,2}})\.?\s?[-–/]\s?(?P<last>\d{{1,2}})\.{_DASH}\s"  # 1./2.- and 1.-3.-
    rf"|(?P<deep>[1-9]\d?(?:\.[1-9]\d?){{1,6}})\.?{_DASH}\s"
    rf"|(?P<whole>[1-9]\d?)\.{_DASH}\s){_SENTENCE}"
)
NUMBER = re.compile(rf"(?:{_AFTER}|{_AFTER_TITLE}){_COUNT}")
NUMBER_HERE = re.compile(_COUNT)
# The title of a part, behind which its first number follows: `III. Berufung der Beklagten 3.`
_WORDS = r"[A-ZÄÖÜÉÈÀ][^.!?\d]{2,80}? (?=\d{1,2}\.)"
PART_TITLE = re.compile(rf"[.!?»)] (?:[IVX]{{1,5}}|[A-H])\.{_DASH} {_WORDS}")
PART_WORDS = re.compile(_WORDS)
ROMAN = re.compile(rf"{_AFTER}(?P<roman>I{{1,3}}|IV|VI{{0,3}}|IX|X)\.{_DASH}\s?(?=[\dA-ZÄÖÜÉÈÀ«\"a(])")
ROMANS = {name: value for value, name in enumerate("I II III IV V VI VII VIII IX X".split(), 1)}
_BEGINNING = r"(?=[§A-ZÄÖÜÉÈÀÂÊÎÔÛÇ\d\"«„(\[.…'’–-])"
LETTER = re.compile(
    rf"(?:{_AFTER}|(?<=[.\d]\s)|(?<=-\s))(?P<letter>[a-z])\)\s?(?:{_BEGINNING}|(?=(?P<twice>[a-z])(?P=twice)\)))"
)
DOUBLE_LETTER = re.compile(rf"(?:{_AFTER}|(?<=\)\s))(?P<letter>(?P<once>[a-z])(?P=once))\)\s?{_BEGINNING}")


def is_cited(before: str) -> bool:
    """Whether a number after these words is an article's, a page's or another consideration's."""
    word = re.split(r"[\s(«'’]", before.rstrip())[-1].rstrip(".")
    # `CF` and `CH` are an act and a country, `cf.` and `ch.` cite.
    return (word if word.isupper() and len(word) > 1 else word.lower()) in _CITES


_CITES = CITING | {"§", "§§", "n", "rz", "fn"}
