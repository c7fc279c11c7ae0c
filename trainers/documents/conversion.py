"""Turns one PDF, Word, HTML or text file into text.

`python conversion.py KIND FILE` prints {"text": …} or {"trouble": …}.

reader.py runs it as a script in a separate process with limited memory and time, because the file may be hostile: a
Word file of 231 KB has unpacked to 6 GB. So that it starts quickly it imports nothing of this project.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import zipfile
from pathlib import Path

MEMORY_BYTES = 2 << 30
CPU_S = 120
MAX_UNPACKED_BYTES = 50_000_000
MAX_PAGES = 2_000
OUT_OF_MEMORY = 3  # an exit code
PR_SET_PDEATHSIG = 1  # prctl(2)

Outcome = dict[str, str | int]


def main(kind: str, path: str) -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = (
        "1"  # onnxruntime, which markitdown imports, would report to its maker
    )
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    if sys.platform == "linux":
        # A worker that is killed, as when the bot stops, can't end this process itself.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # Other systems refuse a memory limit or ignore it.
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        match kind:
            case "pdf":
                outcome = _pdf(path)
            case "docx":
                outcome = _word(path)
            case "text":
                outcome = _plain(path)
            case _:
                outcome = {"text": _markdown(path, ".html")}
        print(json.dumps(outcome))
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)


def _pdf(path: str) -> Outcome:
    """Uses PDFium, which reads a page in 2 ms and 30 MB. markitdown would use pdfplumber and pdfminer, which take 60
    times as long and 10 times the memory."""
    import pypdfium2

    try:
        pages = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD:
            return {"trouble": "encrypted"}
        return {"trouble": "damaged"}
    if len(pages) > MAX_PAGES:
        return {"trouble": "too_many_pages", "number": len(pages)}
    return {"text": "\n\n".join(page.get_textpage().get_text_range() for page in pages)}


def _word(path: str) -> Outcome:
    """Checks the stated sizes before unpacking anything; zipfile never unpacks a part beyond its stated size."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return {"trouble": "damaged"}
    if sum(part.file_size for part in parts) > MAX_UNPACKED_BYTES:
        return {"trouble": "too_big_unpacked"}
    if any(part.flag_bits & 1 for part in parts):
        return {"trouble": "encrypted"}
    if all(part.filename != "word/document.xml" for part in parts):
        return {"trouble": "no_word"}
    return {"text": _markdown(path, ".docx")}


def _plain(path: str) -> Outcome:
    try:
        return {"text": Path(path).read_bytes().decode("utf-8-sig")}
    except UnicodeDecodeError:
        return {"trouble": "not_utf8"}


def _markdown(path: str, ending: str) -> str:
    from markitdown import MarkItDown

    with Path(path).open("rb") as file:  # a stream, since MarkItDown.convert would also fetch URLs
        return MarkItDown(enable_plugins=False).convert_stream(file, file_extension=ending).text_content


if __name__ == "__main__":
    main(*sys.argv[1:])
