"""The measures of the code's structure stay within what ARCHITECTURE.md promises. docs/house.py prints them."""

from __future__ import annotations

import ast
import gc
import re
import runpy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSE = runpy.run_path(str(ROOT / "docs" / "house.py"))
SMALL = {
    "bot/__main__.py": "`python -m bot`",
    "bot/mcp/reports.py": "what both ends of a pipe read; every start of `finetune` imports it",
    "bot/services/common/freeze_scope.py": "freeze.py notifies people, and notifications ask whether there is a freeze",
    "bot/services/common/provider_clients.py": "in app.py, the terminal would import Slack's packages with it",
    "storage/driver.py": "which SQLite is used; in database.py it would import in a circle",
    "trainers/money.py": "micro-dollars; in pricing.py it would import in a circle",
    "trainers/recipes/standalone/ask.py": "a program that is copied into exports",
    "trainers/recipes/standalone/classify.py": "a program that is copied into exports",
    "trainers/local/peft.py": "peft is imported by it alone, so that torch's compiler stays away",
    "trainers/local/ray/node.py": "the entry point on a node, which imports little before it has checked Python",
}
"""Files under 60 lines, each with its reason. Packages' `__init__` and the scripts for the engines' own Pythons are
exempt."""
NAMED_FOLDERS = ("benchmarks", "demo", "deploy", "docs", "tests")
"""Folders beside the product's whose variables are named for what they hold."""
PROSE = ("anew", "of ours", "whoever", "costs on", "shall")
"""Words of a translated English: plain ones exist for each (again, our, anyone who, is still billed, should)."""


@pytest.fixture(scope="module")
def modules() -> Iterator[list[Any]]:
    """The product's modules with their syntax trees, whose million nodes the garbage collector would scan often."""
    gc.disable()
    yield HOUSE["read_modules"]()
    gc.enable()


@pytest.fixture(scope="module")
def all_modules(modules: list[Any]) -> list[Any]:
    """The product's modules, and those of the folders beside it."""
    return [*modules, *HOUSE["read_modules"](packages=NAMED_FOLDERS)]


def test_a_file_has_60_to_600_lines(modules: list[Any]) -> None:
    """A longer one is split by subject. A shorter one is merged with its subject's file, or has its reason in SMALL."""
    lines = {str(module.path): module.lines for module in modules}
    assert {path: count for path, count in lines.items() if count > 600} == {}
    free = {path for path in lines if path.endswith("__init__.py") or "/scripts/" in path}
    assert {path for path, count in lines.items() if count < 60} - free == set(SMALL)


def test_no_modules_import_each_other_in_a_circle(modules: list[Any]) -> None:
    assert HOUSE["find_circles"](modules) == []


def test_modules_are_nouns_or_terms_of_the_field(modules: list[Any]) -> None:
    assert HOUSE["find_gerunds"](modules) == []


def test_no_folder_holds_more_than_20_files(modules: list[Any]) -> None:
    assert HOUSE["crowded_folders"](modules) == {}


def test_others_use_only_what_a_package_offers(modules: list[Any]) -> None:
    """PUBLIC_MODULES in a package's `__init__` is what it offers: at most 20, and all of them are used."""
    doors = HOUSE["read_doors"](modules)
    services = {module.name for module in modules if module.path.match("bot/services/*/__init__.py")}
    assert services <= set(doors)
    for package, offered in doors.items():
        used = HOUSE["imports_from_outside"](modules, package)
        assert set(used) == set(offered), package
        assert len(offered) <= 20, package


def test_a_folder_holds_at_most_20_files_of_tests() -> None:
    counts = Counter(path.parent for path in (ROOT / "tests").rglob("test_*.py"))
    assert {folder: count for folder, count in counts.items() if count > 20} == {}


def test_no_ternary_is_nested_or_unpacked_by_a_star(all_modules: list[Any]) -> None:
    assert HOUSE["find_folded_ternaries"](all_modules) == []


def test_a_line_assigns_at_most_two_values(all_modules: list[Any]) -> None:
    assert HOUSE["find_wide_assignments"](all_modules) == []


def test_variables_are_named_for_what_they_hold(all_modules: list[Any]) -> None:
    counts = HOUSE["count_banned_names"](all_modules)
    assert {name: count for name, count in counts.items() if count} == {}


def test_prose_is_plain_english() -> None:
    pattern = re.compile(rf"\b({'|'.join(PROSE)})\b")
    folders = (*HOUSE["PACKAGES"], *NAMED_FOLDERS)
    paths = {path for folder in folders for path in (ROOT / folder).rglob("*.py")} - {Path(__file__)}
    paths |= {*(ROOT / "docs").glob("*.md")}
    hits = {str(path): pattern.findall(path.read_text(encoding="utf-8")) for path in paths}
    assert {path: words for path, words in hits.items() if words} == {}


def test_rules_hold_no_sentences(modules: list[Any]) -> None:
    """Rules return reasons with their numbers, which the cards of the same noun put into words. Exceptions are for us,
    and a parser's own refusals are sentences."""
    hits = [
        f"{module.path}:{node.lineno}: {text}"
        for module in modules
        if module.path.parts[:2] == ("bot", "rules")
        for node, text in _texts(module.tree)
        if " " in text and text.rstrip().endswith((".", "!"))
    ]
    assert hits == []


def test_the_terminal_parses_no_command_out_of_a_sentence(modules: list[Any]) -> None:
    """A card spells commands for the place where it is read (bot/cards/common/words.py)."""
    hits = [
        f"{module.path}:{node.lineno}"
        for module in modules
        if module.path.parts[:2] == ("bot", "cli")
        for node in module.nodes
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).startswith("re.")
        and "finetune" in ast.unparse(node)
    ]
    assert hits == []


def _texts(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Yields literals and f-strings, except those of docstrings, exceptions and `Misread`."""
    for node in ast.iter_child_nodes(tree):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_misread = isinstance(node, ast.Call) and getattr(node.func, "id", "").lower().endswith("misread")
        if is_docstring or is_misread or isinstance(node, ast.Raise | ast.Assert):
            continue
        if isinstance(node, ast.JoinedStr):
            yield (
                node,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node, node.value
        else:
            yield from _texts(node)


GATES = {"dataset_refusal", "egress_now", "egress_refusal", "typed_text_refusal"}
"""Functions that say whether a text may go to a provider; services/datasets/data_policy.py has the last word."""
CARRIERS = {
    "bot/cli/llm_session.py:wait_for_answers": "the terminal's user is asked for a waiver before the session begins",
    "bot/llm_client.py:_send": "the threads, which send what they were given",
    "bot/services/measurement/evaluation_engine.py:ask": "its callers ask",
    "bot/services/measurement/judgements.py:ask": "its callers ask",
}
"""Functions that hand a text on without asking, each with its reason."""


def test_no_query_numbers_its_placeholders(modules: list[Any]) -> None:
    """From Python 3.14 on, sqlite3 refuses a sequence of values for `?1`."""
    numbered = re.compile(r"[ (=<>]\?\d")
    offenders = []
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and numbered.search(node.value):
                offenders.append(f"{module.path}:{node.lineno}")
    assert offenders == []


def test_each_text_passes_the_gate_before_it_is_sent(modules: list[Any]) -> None:
    senders = re.compile(r"(\bllm|evaluation_engine|consulted)\.ask|\btrainer\.chat")
    ungated = set()
    for module in modules:
        if module.path.parts[0] != "bot" or not re.search(r"\.(ask|chat)\b", module.text):
            continue
        for function in module.nodes:
            if isinstance(function, ast.FunctionDef):
                called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
                asks = {name.rpartition(".")[2] for name in called} & GATES
                if any(senders.search(name) for name in called) and not asks:
                    ungated.add(f"{module.path}:{function.name}")
    assert ungated == set(CARRIERS)


TEAM_NOTICES = {
    "bot/services/common/budgets.py:_warning_draft": "the team's sums alone; those of a channel or a person go there",
    "bot/services/models/orphan_deployments.py:_tell_strays": "the vendor's names of machines that are nobody's here",
    "bot/services/models/orphan_deployments.py:stop_stray": "the same machine, once somebody stops it",
    "bot/services/training/orphan_jobs.py:_alert": "the vendor's name of a job that is nobody's here",
}
"""Functions that post in the team's channel, which may be public, each with what it says there."""
CHANNEL_CHOICES = {
    "bot/app.py": "hands the setting to the sender",
    "bot/services/common/authorization.py": "whether cards can be posted at all",
    "bot/services/common/messages.py": "team_channel",
    "bot/services/common/settings_history.py": "records a change of the setting",
}
"""Files beside the sender that read the fallback channel from the settings."""


def test_only_what_belongs_to_no_channel_is_posted_in_the_teams(modules: list[Any]) -> None:
    notices, choices = set(), set()
    for module in modules:
        if module.path.parts[0] != "bot" or not re.search(r"team_channel|fallback_channel", module.text):
            continue
        for node in module.nodes:
            if isinstance(node, ast.FunctionDef):
                called = {ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
                if "messages.team_channel" in called:
                    notices.add(f"{module.path}:{node.name}")
            elif isinstance(node, ast.Attribute) and ast.unparse(node).endswith("slack.fallback_channel"):
                choices.add(str(module.path))
    assert notices == set(TEAM_NOTICES)
    assert choices == set(CHANNEL_CHOICES)
