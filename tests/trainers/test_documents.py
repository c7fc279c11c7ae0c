"""Each kind of document is read as text, or refused with a reason, and texts are split into passages."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from tests.trainers.dataset.document_files import LOCKED, pdf, word
from trainers.documents import (
    MAX_PAGES,
    MAX_UNPACKED_BYTES,
    Unreadable,
    conversion,
    read_document,
    reader,
    split_passages,
    store_text,
)

OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def read(tmp_path: Path, content: bytes) -> str | Unreadable:
    path = tmp_path / "document"
    path.write_bytes(content)
    return read_document(path)


@pytest.mark.deep
@pytest.mark.parametrize(
    "content",
    [
        b"Refunds take ten days.",
        "\ufeff# Refunds\n\nRefunds take ten days.".encode(),
        b"<!-- from the site -->\n<h1>Terms</h1><script>x()</script><p>Refunds take ten days.</p>",
        word("Refunds take ten days."),
        pdf("Refunds take ten days."),
    ],
    ids=["text", "markdown", "part of a web page", "word", "pdf"],
)
def test_each_kind_of_document_is_recognised_by_its_content(content: bytes, tmp_path: Path) -> None:
    text = read(tmp_path, content)
    assert isinstance(text, str) and "Refunds take ten days." in text and "x()" not in text


def test_a_word_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = word("", **{"word/media/a.xml": bytes(MAX_UNPACKED_BYTES)})  # type: ignore[arg-type]
    assert len(bomb) < 100_000
    assert read(tmp_path, bomb) == Unreadable("too_big_unpacked")


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        (b" \n ", "empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no_document"),
        (b"caf\xe9 au lait", "not_utf8"),
        ("Zeit".encode("utf-16"), "not_utf8"),
        (OLD_OFFICE + bytes(600), "old_word"),
        (OLD_OFFICE + bytes(600) + "EncryptedPackage".encode("utf-16-le"), "encrypted"),
        (pdf("secret", trailer=LOCKED), "encrypted"),
        (pdf(""), "no_text"),
        (b"%PDF-1.4\nand then nothing", "damaged"),
        (b"PK\x03\x04 and then nothing", "damaged"),
        (b"words " * 200, "too_long"),
    ],
)
def test_an_unreadable_document_is_refused_with_the_reason(
    content: bytes, trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_CHARACTERS", 1_000)
    assert read(tmp_path, content) == Unreadable(trouble)  # type: ignore[arg-type]


def test_a_pdf_of_too_many_pages_is_refused(tmp_path: Path) -> None:
    assert read(tmp_path, pdf("a page", pages=MAX_PAGES + 1)) == Unreadable("too_many_pages", MAX_PAGES + 1)


def test_a_zip_archive_is_not_a_word_document(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert read(tmp_path, file.getvalue()) == Unreadable("no_word")


@pytest.mark.deep
def test_an_external_entity_is_not_followed(tmp_path: Path) -> None:
    """Refusing the document is as good as leaving out the named file."""
    secret = tmp_path / "secret"
    secret.write_text("the launch code", encoding="utf-8")
    entity = f'<!DOCTYPE x [<!ENTITY e SYSTEM "{secret.as_uri()}">]>'
    text = read(tmp_path, word("before &e; after", before=entity))
    assert text == Unreadable("damaged") or "launch code" not in str(text)


def test_multiplying_entities_are_refused(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    assert read(tmp_path, word("&e9;", before=f'<!DOCTYPE x [<!ENTITY e0 "ha">{levels}]>')) == Unreadable(
        "damaged"
    )


USES_MEMORY = "bytes(3 << 30)"
# The kernel sends this signal at the limit of CPU seconds.
USES_TIME = (
    "import os, signal; assert resource.getrlimit(resource.RLIMIT_CPU) == (CPU_S, CPU_S); "
    "os.kill(os.getpid(), signal.SIGXCPU)"
)
HANGS = "import time; time.sleep(600)"


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(
            USES_MEMORY,
            marks=pytest.mark.skipif(
                os.uname().sysname != "Linux", reason="only Linux enforces a memory limit"
            ),
        ),
        USES_TIME,
        HANGS,
    ],
    ids=["memory", "time", "hangs"],
)
def test_a_conversion_that_exceeds_its_memory_or_time_or_hangs_is_ended(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "conversion.py"
    source = Path(conversion.__file__).read_text(encoding="utf-8")
    script.write_text(source.replace("from markitdown import MarkItDown", code), encoding="utf-8")
    monkeypatch.setattr(reader, "_CONVERSION", script)
    if code == HANGS:
        monkeypatch.setattr(reader, "TIMEOUT_S", 0.5)
    assert read(tmp_path, word("hello")) == Unreadable("too_hard")


def test_a_stored_text_is_read_instead_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "document"
    path.write_bytes(b"%PDF-1.4 which nobody converts again")
    store_text(path, "Refunds take ten days.")
    assert read_document(path) == "Refunds take ten days."
    assert sorted(each.name for each in tmp_path.iterdir()) == ["document", "document.text"]


def test_short_paragraphs_share_a_passage_and_long_ones_do_not() -> None:
    short, long = "Opening hours.", "word " * 87 + "end."
    assert split_passages(f"{short}\r\n\r\n{short}\n \n{long}\n\n{short}") == (
        f"{short}\n\n{short}",
        f"{long}\n\n{short}",
    )


def test_a_long_paragraph_is_cut_between_sentences_and_a_long_sentence_between_words() -> None:
    sentences = split_passages("one two three four five six seven eight nine ten. " * 30)
    assert [len(passage.split()) for passage in sentences] == [90, 90, 90, 30]
    assert all(passage.endswith("ten.") for passage in sentences)
    one_sentence = split_passages("word " * 1_000)
    assert [len(passage.split()) for passage in one_sentence] == [90] * 11 + [10]


def test_passages_contain_each_word_once() -> None:
    text = "\n\n".join(" ".join(f"w{p}x{i}{'.' * (i % 7 == 0)}" for i in range(p * 13)) for p in range(1, 40))
    assert " ".join(split_passages(text)).split() == text.split()
    assert max(len(passage.split()) for passage in split_passages(text)) <= 90


@pytest.mark.parametrize("text", ["", " \n\n\t \n\n"])
def test_an_empty_text_has_no_passages(text: str) -> None:
    assert split_passages(text) == ()
