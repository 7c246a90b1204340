"""Decisions from files as people have them: what is read, and what is refused by its name."""

from __future__ import annotations

import codecs
import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headnote_cli.data.documents import read_decision
from headnote_cli.errors import DataError, SldsError, UsageError
from tests.commands import slds
from tests.conftest import examples
from tests.integration.generation.test_generate import pdf

TEXT = "Erwägungen:\n1. Die Beschwerde ist begründet, «soweit» auf sie eingetreten wird.\n2. Kosten: 800 Franken."
PAGE = """<!DOCTYPE html>
<html><head><title>Urteil</title><style>p { color: red }</style></head>
<body><nav><ul><li>Suche</li></ul></nav>
<script>if (1 < 2) { alert("x") }</script>
<div>Erw&auml;gungen:</div>
<p>1. Die Beschwerde ist
   begr&#252;ndet, &laquo;soweit&raquo; auf sie <b>ein</b>getreten&nbsp;wird.<br/>
2. Kosten: 800&nbsp;Franken.<br></p>
<pre>a)  Gericht
b)  Partei</pre>
<table><tr><td>Gebühr</td><td>300</td></tr></table></body></html>"""
READ_PAGE = (
    "Erwägungen:\n\n1. Die Beschwerde ist begründet, «soweit» auf sie eingetreten\xa0wird.\n"
    "2. Kosten: 800\xa0Franken.\n\na) Gericht\nb) Partei\n\nGebühr 300"
)


def encrypted(raw: bytes, password: str, algorithm: str) -> bytes:
    from pypdf import PdfWriter

    writer = PdfWriter(clone_from=io.BytesIO(raw))
    writer.encrypt(password, "of the owner", algorithm=algorithm)
    stream = io.BytesIO()
    writer.write(stream)
    return stream.getvalue()


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("encoding", "mark", "note"),
    [
        ("utf-8", b"", None),
        ("utf-8", codecs.BOM_UTF8, None),
        ("utf-16-le", codecs.BOM_UTF16_LE, "read as UTF-16"),
        ("utf-16-be", codecs.BOM_UTF16_BE, "read as UTF-16"),
        ("utf-16-le", b"", "read as UTF-16-LE"),
        ("utf-16-be", b"", "read as UTF-16-BE"),
        ("utf-32-le", codecs.BOM_UTF32_LE, "read as UTF-32"),
        ("utf-32-be", codecs.BOM_UTF32_BE, "read as UTF-32"),
        ("cp1252", b"", "not UTF-8, read as Latin-1 (Windows-1252)"),
    ],
)
def test_a_text_is_the_same_in_every_encoding_and_with_every_ending(
    encoding: str, mark: bytes, note: str | None, ending: str
) -> None:
    decision = read_decision(Path("a.txt"), mark + TEXT.replace("\n", ending).encode(encoding))
    assert (decision.text, decision.language) == (TEXT, "de")
    assert decision.note == (note and f"a.txt: {note}")


def test_a_text_with_a_few_bytes_damaged_is_still_utf8() -> None:
    decision = read_decision(Path("a.txt"), TEXT.encode().replace("«".encode(), b"\xab"))
    assert decision.text == TEXT.replace("«", "\ufffd")
    assert decision.note == "a.txt: 1 characters are damaged: not UTF-8"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("name", ["a.html", "a.HTM", "a.txt", "-"])
def test_a_page_is_read_as_its_text(encoding: str, name: str) -> None:
    decision = read_decision(Path(name), PAGE.encode(encoding))
    assert decision.text == READ_PAGE
    assert str(decision.note).startswith(f"{name}: read as HTML")


def test_a_page_is_read_in_the_encoding_that_it_names() -> None:
    page = '<?xml version="1.0" encoding="mac-roman"?><html xmlns="x"><body><script/>Erwägung</body></html>'
    assert read_decision(Path("a.xhtml"), page.encode("mac-roman")).text == "Erwägung"
    page = '<html><meta charset="no such"><p>Erwägung</html>'
    assert read_decision(Path("a.html"), page.encode("cp1252")).text == "Erwägung"


@pytest.mark.parametrize(
    "start",
    [
        *"<article> <section> <main> <b> <i> <center> <font> <ul> <br> <br/> <BR> <hr/> <small> <header> <nav>".split(),
        '<a href="x">',
        "<!-- x --><em>",
        "\ufeff\n<ol><li>",
        "<blockquote\nclass='x'>",
    ],
)
def test_a_part_of_a_page_is_a_page_too(start: str) -> None:
    decision = read_decision(Path("a.txt"), f"{start}Erw&auml;gung 1<p>2".encode())
    assert decision.text.split("\n") == ["Erwägung 1", "2"]
    assert decision.note == "a.txt: read as HTML"


@pytest.mark.parametrize("tag", ["nav", "svg", "noscript", "button", "select", "template", "title"])
def test_an_element_that_is_not_closed_hides_nothing(tag: str) -> None:
    page = f"<html><nav>Menu</nav><{tag}><h1>Urteil</h1><p>Die Klage wird abgewiesen.<{tag}>Suche</{tag}></html>"
    read = read_decision(Path("a.html"), page.encode()).text
    assert "Urteil\n" in read
    assert "Die Klage wird abgewiesen." in read
    assert "Menu" not in read
    assert "Suche" not in read


def test_hidden_elements_part_the_words_around_them() -> None:
    page = "<p>1. Gut.<nav>Menu<button>Suche</nav>2. Recht.<script>if (1 < 2) {}"
    assert read_decision(Path("a.html"), page.encode()).text == "1. Gut.\n\n2. Recht."


def test_angle_brackets_in_a_text_are_no_page() -> None:
    text = "A. <Name> klagt.\n<p> steht hier als Text, 3 < 4."
    assert read_decision(Path("a.txt"), text.encode()).text == text


@settings(max_examples=examples(2000))
@given(parts=st.lists(st.sampled_from("<p> </p> <! <!-- --> <![ <script> </script> & &auml; &#0; <b <nav> ü".split())))
def test_any_page_is_read_or_refused_in_words(parts: list[str]) -> None:
    with contextlib.suppress(SldsError):
        read_decision(Path("a.html"), "".join(parts).encode())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"PK\x03\x04 ... word/document.xml", "is a Word document"),
        (b"PK\x03\x04 mimetypeapplication/vnd.oasis.opendocument.text", "is an OpenDocument text"),
        (b"PK\x03\x04 a.txt", "is a zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Word document"),
        (rb"{\rtf1\ansi Erw\'e4gung}", "is an RTF document"),
        (codecs.BOM_UTF8 + rb"{\rtf1\ansi Erw\'e4gung}", "is an RTF document"),
        (b" \r\n{\\rtf1\\ansi x}", "is an RTF document"),
        (b"\x89PNG\r\n\x1a\n", "is a picture"),
        (b"<?xml version='1.0'?><urteil>x</urteil>", "is an XML document"),
        (b"From: x\nMIME-Version: 1.0\nContent-Type: multipart/related\n\n<html>", "is a web archive"),
        (b"text\0with\0nulls here", "is not a text file"),
        (codecs.BOM_UTF16_LE + b"a", "is not a text file"),
        (b"a\0\0\0b\0\0\0", "is not a text file"),
        (b"<html><script>1</script></html>", "is empty"),
    ],
)
def test_what_is_no_text_is_refused_by_its_name(raw: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_decision(Path("a.txt"), raw)
    assert caught.value.where == "a.txt"


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_an_encrypted_pdf_is_read_unless_it_takes_a_password(algorithm: str) -> None:
    raw = pdf("Urteil", "Die Klage wird abgewiesen.")
    assert "abgewiesen" in read_decision(Path("a.pdf"), encrypted(raw, "", algorithm)).text
    with pytest.raises(DataError, match="needs a password") as caught:
        read_decision(Path("a.pdf"), encrypted(raw, "secret", algorithm))
    assert "without a password" in str(caught.value.hint)


def test_an_encrypted_pdf_without_cryptography_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    def refuse(*_: object, **__: object) -> None:
        raise DependencyError("cryptography>=3.1 is required for AES algorithm")

    monkeypatch.setattr(PdfReader, "__init__", refuse)
    with pytest.raises(UsageError, match="takes the `cryptography` package") as caught:
        read_decision(Path("a.pdf"), pdf("x"))
    assert "pip install 'headnote-cli[pdf]'" in str(caught.value.hint)


def test_a_pdf_tells_pages_without_text_and_may_begin_late() -> None:
    from pypdf import PdfWriter

    writer, stream = PdfWriter(), io.BytesIO()
    for page in (pdf("Urteil vom 3. Mai"), pdf()):
        writer.append(io.BytesIO(page))
    writer.write(stream)
    assert read_decision(Path("a"), stream.getvalue()).note == "a: read as a PDF; 1 of 2 pages hold no text"
    assert read_decision(Path("a.pdf"), b"\r\n\r\n" + pdf("Urteil")).text == "Urteil"


@settings(max_examples=examples(2000))
@given(data=st.data())
def test_a_damaged_pdf_is_read_or_refused_in_words(data: st.DataObject) -> None:
    raw = bytearray(pdf("Urteil", "Die Klage wird abgewiesen."))
    for _ in range(data.draw(st.integers(0, 20))):
        raw[data.draw(st.integers(5, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        read_decision(Path("a.pdf"), bytes(raw[: data.draw(st.integers(5, len(raw)))]))


def test_a_pdf_that_was_cut_off_is_never_read_in_part() -> None:
    raw = pdf("Urteil", "Die Klage wird abgewiesen.")
    for size in range(5, len(raw) - 5, 9):
        with pytest.raises(DataError, match="cannot be read"):
            read_decision(Path("a.pdf"), raw[:size])


def test_a_folder_is_read_whole_before_anything_begins(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "c.docx").write_bytes(b"PK\x03\x04")
    (tmp_path / "._a.txt").write_bytes(b"\0\5\x16\7")
    (tmp_path / "d.pdf").write_bytes(b"%PDF-1.4 broken")
    result = slds("generate", "--decision", tmp_path, "--lang", "de", "--model", "nowhere")
    assert result.exit_code == 5
    assert "d.pdf: the PDF cannot be read" in result.stderr
    assert "left out of" in result.stderr
    assert "c.docx" in result.stderr
    assert "._a.txt" not in result.stderr
    for file in tmp_path.glob("[!c]*"):
        file.unlink()
    assert "the folder holds no decision" in slds("generate", "--decision", tmp_path, "--lang", "de").stderr
