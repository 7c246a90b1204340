"""Read a decision from plain text, HTML or PDF. Other formats are rejected by name."""

from __future__ import annotations

import codecs
import io
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from headnote_cli.errors import DataError, UsageError, package
from headnote_cli.law.language import detect_language

MAX_CHARACTERS = 5_000_000  # the longest real decision has about 0.5 million
HTML_SUFFIXES = (".html", ".htm", ".xhtml")
SUFFIXES = (".txt", ".pdf", *HTML_SUFFIXES)  # read from a folder
SAVE = "save it as plain text or PDF"
# Other formats: their first bytes, bytes anywhere in the file, and what to call them.
OTHER_FORMATS = (
    (b"PK\x03\x04", b"word/", "a Word document"),
    (b"PK\x03\x04", b"opendocument.text", "an OpenDocument text"),
    (b"PK\x03\x04", b"", "a zip archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"", "an old Word document"),
    (b"{\\rtf", b"", "an RTF document"),
    (b"bplist00", b"", "a web archive"),
    (b"\x89PNG\r\n", b"", "a picture"),
    (b"\xff\xd8\xff", b"", "a picture"),
    (b"GIF8", b"", "a picture"),
    (b"II*\0", b"", "a picture"),
    (b"MM\0*", b"", "a picture"),
    (b"\x1f\x8b", b"", "a gzip archive"),
)
# UTF-32 first: its little-endian mark starts with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
UNREAD = frozenset("nav title template noscript svg button select script style".split())
BLOCKS = frozenset(
    "address article aside blockquote body br caption center dd div dl dt fieldset figcaption figure footer form "
    "h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre section table tr ul".split()
)
OTHER_ELEMENTS = frozenset(
    "a abbr acronym b base big cite code details em font head hgroup html i iframe img input label link meta s small "
    "span strike strong sub summary sup tbody td tfoot th thead time tt u".split()
)
_ELEMENT = "|".join(sorted(UNREAD | BLOCKS | OTHER_ELEMENTS))
_HTML = re.compile(
    rf"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|{_ELEMENT})[\s/>]",
    re.IGNORECASE | re.DOTALL,
)
_CHARSET = re.compile(rb"""<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)


@dataclass(frozen=True)
class Decision:
    """A decision to write headnotes for."""

    name: str
    text: str
    language: str | None
    note: str | None = None  # how it was read, if not as plain UTF-8


def read_decision(path: Path, raw: bytes | None = None, language: str | None = None) -> Decision:
    """Read a decision from a text file, an HTML page or a PDF, or from bytes already read.

    Text is UTF-8, UTF-16 or UTF-32, or else Windows-1252.

    Args:
        language: de, fr or it; None detects it.

    Raises:
        UsageError: There is no such file, or a package for PDFs is missing.
        DataError: It is empty, damaged, far too long or not text.
    """
    if raw is None:
        try:
            raw = path.read_bytes()
        except FileNotFoundError as error:
            raise UsageError("there is no such file", str(path)) from error
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", str(path)) from error
    text, note = _read(raw, path)
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    if not text:
        raise DataError("the decision is empty", str(path))
    if len(text) > MAX_CHARACTERS:
        raise DataError(f"{len(text):,} characters are too long for a decision", str(path))
    name = path.stem.encode(errors="backslashreplace").decode()  # some file names are not text
    return Decision(name, text, language or detect_language(text), note and f"{path}: {note}")


def _read(raw: bytes, path: Path) -> tuple[str, str | None]:
    """The text, and a note if it is not plain UTF-8."""
    # Some PDFs have a few bytes before this mark.
    if raw.startswith(b"%PDF-") or (path.suffix.lower() == ".pdf" and b"%PDF-" in raw[:1024]):
        return _pdf_text(raw, path)
    unmarked = raw.removeprefix(codecs.BOM_UTF8).lstrip()
    for start, content, name in OTHER_FORMATS:
        if unmarked.startswith(start) and content in raw:
            raise DataError(f"is {name}", str(path), SAVE)
    text, note = _decoded(raw, path)
    if _HTML.match(text) or path.suffix.lower() in HTML_SUFFIXES:
        return _html_text(text, path), "read as HTML" + (f"; {note}" if note else "")
    if text.lstrip().startswith("<?xml"):
        raise DataError("is an XML document", str(path), SAVE)
    if all(word in text[:4096] for word in ("MIME-Version:", "multipart/")):
        raise DataError("is a web archive or a mail", str(path), SAVE)
    return text, note


def _decoded(raw: bytes, path: Path) -> tuple[str, str | None]:
    """The characters of a file, and a note if it is not valid UTF-8."""
    wide = _wide_encodings(raw)
    for encoding in wide:
        with suppress(UnicodeDecodeError):
            text = raw.decode(encoding)
            if "\0" not in text:
                return text, f"read as {encoding}"
    if wide or b"\0" in raw:
        raise DataError("is not a text file", str(path), "save the decision as plain text first")
    try:
        return raw.decode("utf-8-sig"), None
    except UnicodeDecodeError:
        return _not_utf8(raw)


def _wide_encodings(raw: bytes) -> list[str]:
    """UTF-16 or UTF-32 by its mark; unmarked UTF-16 has a NUL in most second bytes of Latin text."""
    marked = [encoding for mark, encoding in MARKS if raw.startswith(mark)]
    if marked:
        return marked
    head = raw[:8192]
    halves = {"UTF-16-LE": head[1::2], "UTF-16-BE": head[::2]}
    return [encoding for encoding, high in halves.items() if high.count(0) > len(high) / 2]


def _not_utf8(raw: bytes) -> tuple[str, str]:
    """Decode text that is not valid UTF-8: a few invalid bytes mean damage, many mean an older encoding."""
    text = raw.decode("utf-8-sig", errors="replace")
    damaged = text.count("\ufffd")
    if sum(character > "\x7f" for character in text) > 2 * damaged:
        return text, f"{damaged} characters are damaged: not UTF-8"
    declared = _CHARSET.search(raw[:4096])
    if declared and declared[1].lower() != b"iso-8859-1":  # browsers read this as Windows-1252
        with suppress(LookupError, ValueError):
            name = declared[1].decode()
            return raw.decode(name), f"read as {name}"
    return raw.decode("cp1252", errors="replace"), "not UTF-8, read as Latin-1 (Windows-1252)"


def _pdf_text(raw: bytes, path: Path) -> tuple[str, str]:
    """The text of all pages, and a note."""
    with package("pypdf", "pdf", "reading a PDF", str(path), ", or save the decision as plain text"):
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, FileNotDecryptedError
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its repairs do not concern the user
    try:
        pages = [page.extract_text() for page in PdfReader(io.BytesIO(raw)).pages]
    except DependencyError as error:
        hint = "install it with `pip install 'headnote-cli[pdf]'`, or save the decision as plain text"
        raise UsageError("reading an encrypted PDF takes the `cryptography` package", str(path), hint) from error
    except FileNotDecryptedError as error:
        hint = "save a copy without a password, or the decision as plain text"
        raise DataError("the PDF needs a password", str(path), hint) from error
    except Exception as error:  # a damaged file may raise anything
        reason = str(error) or type(error).__name__
        raise DataError(f"the PDF cannot be read: {reason}", str(path), "save the decision as plain text") from error
    blank = sum(not page.strip() for page in pages)
    if blank == len(pages):
        raise DataError("the PDF holds no text: its pages are pictures", str(path), "recognise its text first (OCR)")
    return "\n".join(pages), "read as a PDF" + (f"; {blank} of {len(pages)} pages hold no text" if blank else "")


class _Page(HTMLParser):
    """The text of an HTML page, each block on its own line.

    The text of a skipped element is removed when the element ends, so an unclosed one removes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.unread: list[tuple[str, int]] = []  # open skipped elements, and where each starts
        self.preformatted = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._break_at(tag)
        if tag in UNREAD:
            self.unread.append((tag, len(self.pieces)))
        self.preformatted += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in UNREAD:
            self._drop(tag)
        self.preformatted -= tag == "pre" and self.preformatted > 0
        if tag != "br":  # `<br/>` is one break
            self._break_at(tag)

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:  # not in a script or style, closed or not
            self.pieces.append(data if self.preformatted else re.sub(r"[ \t\r\n\f]+", " ", data))

    def _drop(self, tag: str) -> None:
        """Remove the text of the innermost open element of this name."""
        places = [place for place, (name, _) in enumerate(self.unread) if name == tag]
        if places:
            del self.pieces[self.unread[places[-1]][1] :]
            del self.unread[places[-1] :]

    def _break_at(self, tag: str) -> None:
        if tag in BLOCKS:
            self.pieces.append("\n")
        elif tag in ("td", "th"):
            self.pieces.append(" ")


def _html_text(text: str, path: Path) -> str:
    """The text of a page, without its menus and scripts."""
    page = _Page()
    try:
        page.feed(text)
        page.close()
    except AssertionError as error:  # raised by html.parser for an unknown declaration
        raise DataError(f"the HTML cannot be read: {error}", str(path), SAVE) from error
    lines = re.sub(r" *\n *", "\n", re.sub(r" {2,}", " ", "".join(page.pieces)))
    return re.sub(r"\n{3,}", "\n\n", lines)
