"""The numbers of considerations as citations write them: `2.1`, `3 a`, `2a et b`, `3b/aa`, `II/1`, `3-5`, `4 ff.`

In one form for all: `3a`, `3b/aa`, `II/1`, `3-5`, `3a-3d`, `4 ff.`
"""

from __future__ import annotations

import re

JOIN = r"(?:\s?[,;]\s|\s(?:und|et|ed?|sowie|ainsi que|nonché|bzw\.|resp\.|ou|oder|o)\s)"
FOLLOWING = r"(?:ff?|ss?|segg?|sgg?)(?:\.|(?![\w'’]))"
SURELY_FOLLOWING = {"f.": 1, "ff.": 2}  # how many numbers a citation names at least behind its own
_DIGITS = r"\d{1,2}(?:\.\d{1,2}){0,6}"
_PART = r"(?:[IVX]{1,4}\s?[/.]\s?)"
# Where a list of numbers may begin.
BEGINS = rf"(?:{_PART}?\d{{1,2}}(?![\d°]|\w{{3}})|[IVX]{{1,4}}(?![\w.'’/]))"
WHERE = r"(?:E\.|[Cc]ons(?:id)?\.|c\.|Erw\.|Erwägung(?:en)?|[Cc]onsidérants?|[Cc]onsiderand[oi])"

# A letter that a blank parts from its number, `3 a`: before anything else it is a word (`consid. 3 a été`) or an
# abbreviation (`E. 3 i. V. m.`). `f` and `s` are what follows: `E. 3 f.`
_APART = (
    r"\s(?P<apart>[a-eg-rt-z])(?=\s?[)\];,:–-]|\.?\s*$|\s(?:und|et|bis|à)\s(?:[a-z](?![\w'’.])|\d)"
    r"|\s?/?(?P<one>[a-z])(?P=one)(?!\w))"
)
_NUMBER = re.compile(
    rf"(?:(?P<part>[IVX]{{1,4}})\s?[/.]\s?)?(?P<digits>{_DIGITS})"
    rf"(?:(?={FOLLOWING})"
    r"|\.?(?P<attached>[a-z]{1,3}(?:/[a-z]{1,3}){0,2})(?![\w°'’])"
    r"|\s?(?:litt?|lett?|Bst|lettres?|lettera)\.?\s(?P<named>[a-z])(?![\w'’])"
    rf"|{_APART}|(?![\w°]))(?!\.\d)"
)
_ROMAN = re.compile(r"(?P<part>[IVX]{1,4})(?![\w.'’/])")
_DOUBLE = re.compile(r"\s?/?\s?(?P<double>(?P<one>[a-z])(?P=one))(?![\w'’])")
_LETTER = re.compile(r"(?P<letter>[a-z])(?![\w'’]|\.\w)")
_DASH = re.compile(r"\s?[-–]\s?|\s(?:bis|à|a)\s")
_MANY = re.compile(rf"\s?(?:et?\s(?=ss|seg|sg))?(?P<many>{FOLLOWING})")
_NEXT = re.compile(JOIN)
FARTHEST = 12  # letters from one of a list to the next


def read_numbers(text: str, at: int) -> tuple[list[str], int]:
    """The numbers of a list that begins at a place, and where it ends; none if no number stands there."""
    values: list[str] = []
    end = at
    while (read := _read(text, at, values[-1] if values else "")) is not None:
        value, end = read
        values.append(value)
        following = _NEXT.match(text, end)
        if following is None:
            break
        at = following.end()
    return values, end


def _read(text: str, at: int, before: str) -> tuple[str, int] | None:
    """A number with its range or its `ff.`, and where it ends; `before` is the one before it on the list."""
    first = _single(text, at, before)
    if first is None:
        return None
    value, end = first
    dash = _DASH.match(text, end)
    last = _single(text, dash.end(), value) if dash else None
    if last:
        return f"{value}-{last[0]}", last[1]
    many = _MANY.match(text, end)
    if many:
        return f"{value} {'ff.' if re.search('ff|ss|gg', many['many']) else 'f.'}", many.end()
    return value, end


def _single(text: str, at: int, before: str) -> tuple[str, int] | None:
    number = _NUMBER.match(text, at)
    if number is None:
        return _bare(text, at, before)
    part = f"{number['part']}/" if number["part"] else ""
    letters = number["attached"] or number["named"] or number["apart"] or ""
    end = number.end()
    if len(letters) > 1 and "/" not in letters and letters[-1] == letters[-2]:  # `3baa`, `3aa`
        letters = f"{letters[:-2]}/{letters[-2:]}"
    elif len(letters) == 1 and (double := _DOUBLE.match(text, end)):
        letters, end = f"{letters}/{double['double']}", double.end()
    return f"{part}{number['digits']}{letters}", end


def _bare(text: str, at: int, before: str) -> tuple[str, int] | None:
    """A Roman part; or a letter that goes on with the number before: the `b` of `2a et b`, the `bb` of `3b/aa, bb`."""
    roman = None if before else _ROMAN.match(text, at)
    if roman:
        return roman["part"], roman.end()
    double = _DOUBLE.match(text, at)
    if double and "/" in before:
        return f"{before.rpartition('/')[0]}/{double['double']}", double.end()
    letter = _LETTER.match(text, at)
    old = re.match(rf"((?:[IVX]+/)?{_DIGITS})([a-z])", before.rpartition("-")[2])
    if letter is None or old is None or not 0 < ord(letter["letter"]) - ord(old[2]) <= FARTHEST:
        return None
    return old[1] + letter["letter"], letter.end()
