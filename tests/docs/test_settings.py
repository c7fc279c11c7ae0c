"""Each setting, extra and environment variable that the documentation names is one that the product reads."""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from bot.settings import load_settings
from bot.settings.tables import SettingsTable
from tests.docs.pages import PAGES, ROOT, SHELL, blocks, spans, title
from trainers.typed_tables import Fault, read_table

# Read by other programs or libraries, by the name of who reads them.
OTHERS_READ = {
    "ATEN_CPU_CAPABILITY": "PyTorch",
    "MKL_ENABLE_INSTRUCTIONS": "MKL",
    "NCCL_SOCKET_IFNAME": "NCCL",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "OpenTelemetry",
    "SLURM_JOB_NODELIST": "Slurm",
    "SLURM_JOB_NUM_NODES": "Slurm",
    "VLLM_CPU_KVCACHE_SPACE": "vLLM",
}
SETTING = re.compile(r"^(\[+[a-z][\w.\"-]*\]+)(?: (\w+)(?: = .*)?)?$")
VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
SOURCES = (".py", ".toml", ".example", "Makefile", ".service", ".yml", "Dockerfile")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


def _toml_blocks() -> list[object]:
    return [
        pytest.param(block.text, id=f"{title(page)} {number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, "toml"), 1)
    ]


@pytest.mark.parametrize("text", _toml_blocks())
def test_the_reader_of_the_settings_accepts_the_block(text: str, tmp_path: Path) -> None:
    path = tmp_path / "finetune.toml"
    path.write_text(text.replace("sha256:…", f"sha256:{64 * '0'}"), encoding="utf-8")
    load_settings({}, path, need_slack=False)


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_a_setting_in_a_sentence_exists(page: Path) -> None:
    settings = [match for span in spans(page) if (match := SETTING.match(span))]
    unknown = [match[0] for match in settings if not _is_known(match[1], match[2])]
    assert unknown == []


def _is_known(header: str, key: str | None) -> bool:
    if header.strip("[]") in EXTRAS and key is None:
        return True
    faults: list[Fault] = []
    read_table(SettingsTable, tomllib.loads(f"{header}\n{key or 'x'} = 1\n"), faults)
    path_length = len(header.split(".")) + bool(key)
    return not any(fault.kind == "unknown" and len(fault.path) <= path_length for fault in faults)


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_the_product_reads_each_environment_variable(page: Path) -> None:
    texts = [*spans(page), *(block.text for block in blocks(page, *SHELL, "toml"))]
    names = {name for text in texts for name in VARIABLE.findall(text)}
    assert names - OTHERS_READ.keys() - _names_in_the_sources() == set()


@cache
def _names_in_the_sources() -> frozenset[str]:
    """Returns the names in capitals in all tracked files of code and settings, except these tests."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names: set[str] = set()
    for name in files.split():
        if not name.startswith("tests/docs/") and name.endswith(SOURCES):
            names |= set(VARIABLE.findall((ROOT / name).read_text(encoding="utf-8")))
    return frozenset(names)
