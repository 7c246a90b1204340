"""A text in plain characters: as a lawyer types it, each character with its place in the text as it was.

Word processors, PDF and web pages write the same words with no-break signs, soft hyphens, ligatures, decomposed accents
or several spaces; the patterns of the citations know plain spaces, hyphens and letters.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from dataclasses import dataclass

_NOTHING = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff"
_BLANK = " \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"  # no line break
_MARK = "\u0300-\u036f"
_LETTER = "\u02b0-\u02b8\u1d43-\u1d61\u2160-\u217f\ufb00-\ufb06"  # raised, a Roman number, a ligature
# Characters of one kind, and what is written for each of them.
_FORMS = {
    "hyphen": ("\u2010-\u2012\u2212\ufe63\uff0d", "-"),
    "dash": ("\u2014\u2015", "–"),
    "apostrophe": ("\u00b4`\u02bc\u2018\u201b\u2032", "’"),
    "degree": ("\u00ba", "°"),
    "newline": ("\r", "\n"),
}
_ODD = re.compile(
    rf"(?P<space>[{_NOTHING}]*[{_BLANK}][{_BLANK}{_NOTHING}]+|(?! )[{_BLANK}])"
    rf"|(?P<nothing>[{_NOTHING}]+)"
    rf"|(?P<composed>\w[{_NOTHING}]*[{_MARK}][{_MARK}{_NOTHING}]*|[{_LETTER}])"
    + "".join(rf"|(?P<{name}>[{characters}])" for name, (characters, _) in _FORMS.items())
    + r"(?:(?<=\r)\n)?"  # two signs for one new line
)
_PLAIN = {"space": " ", "nothing": ""} | {name: form for name, (_, form) in _FORMS.items()}
# A class of all that is not plain, but a second space.
ODD = f"{_BLANK[1:]}{_NOTHING}{_MARK}{_LETTER}{''.join(characters for characters, _ in _FORMS.values())}"
_SEEN_TO_BE_ODD = re.compile(f"[{ODD}]")
_UNSEEN = re.compile(f"[{_NOTHING}]")


@dataclass(frozen=True)
class Plain:
    """A text in plain characters; of each character where it begins and ends in the text as it was.

    No places where the text was plain already.
    """

    text: str
    starts: array[int] | None = None
    ends: array[int] | None = None

    def place(self, start: int, end: int) -> tuple[int, int]:
        """A stretch of at least one plain character, as a stretch of the text as it was."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]


def plain(text: str) -> Plain:
    """A text with one space for several, `-` for the other hyphens, composed letters, and nothing that is not seen."""
    if "  " not in text and not _SEEN_TO_BE_ODD.search(text):  # most texts, in a fraction of the time
        return Plain(text)
    written: list[str] = []
    starts, ends = array("L"), array("L")
    at = 0
    for odd in _ODD.finditer(text):
        form = _plain_form(odd)
        written += [text[at : odd.start()], form]
        starts.extend([*range(at, odd.start()), *[odd.start()] * len(form)])
        ends.extend([*range(at + 1, odd.start() + 1), *[odd.end()] * len(form)])
        at = odd.end()
    starts.extend(range(at, len(text)))
    ends.extend(range(at + 1, len(text) + 1))
    return Plain("".join([*written, text[at:]]), starts, ends)


def _plain_form(odd: re.Match[str]) -> str:
    kind = str(odd.lastgroup)
    if kind == "composed":
        return unicodedata.normalize("NFKC", _UNSEEN.sub("", odd[0]))
    return _PLAIN[kind]
