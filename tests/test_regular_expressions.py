"""No regular expression of the product takes more than linear time on a text that somebody wrote to be slow."""

from __future__ import annotations

import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from typing_extensions import TypeIs

from tests.slow_texts import find_slow_text

ROOT = Path(__file__).parent.parent
PACKAGES = ("bot", "trainers", "storage")
METHODS = {
    "match": "match",
    "fullmatch": "fullmatch",
    "search": "finditer",
    "finditer": "finditer",
    "findall": "finditer",
    "sub": "finditer",
    "subn": "finditer",
    "split": "finditer",
}
# What a file must hold to be worth parsing.
CALL = re.compile(rf"\bre\.(compile|{'|'.join(METHODS)})\b")
USE = re.compile(rf"\.({'|'.join(METHODS)})\b")
UNKNOWN = "a"  # stands for a value that is known only when the program runs


@dataclass(frozen=True)
class Found:
    """A regular expression of the product. `methods` are what it is called by, all if that can't be seen."""

    where: str
    pattern: re.Pattern[str] | re.Pattern[bytes]
    methods: frozenset[str]


@pytest.mark.deep
def test_no_regular_expression_is_slow_on_hostile_text() -> None:
    patterns = list(find_patterns())
    assert len(patterns) > 150
    slow = [
        f"{each.where}: {each.pattern.pattern!r} by {method}: {text}"
        for each in patterns
        for method in sorted(each.methods)
        if (text := find_slow_text(each.pattern, method))
    ]
    assert not slow, "\n".join(slow)


@pytest.mark.deep
@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"(a|a)*b", "match"),
        (rb"(a|<!--.*?-->|\s)*<html", "match"),
        (r"\s*```\s*(.*?)\s*```\s*", "fullmatch"),
        (r"\s*<call>", "finditer"),
        (r"<begin>(.*?)<end>", "finditer"),
        (r"\{[^}]*\}", "finditer"),
    ],
)
def test_slow_ones_are_found(pattern: str | bytes, method: str) -> None:
    assert find_slow_text(re.compile(pattern, re.DOTALL), method)


@pytest.mark.parametrize(
    ("pattern", "method"),
    [(r"\s*(\w+)=(.*)", "match"), (r"(?:(?<!\s)\s++)?<call>", "finditer"), (r"\{[^{}]*\}", "finditer")],
)
def test_fast_ones_are_not(pattern: str, method: str) -> None:
    assert find_slow_text(re.compile(pattern), method) is None


def find_patterns() -> Iterator[Found]:
    for path in source_files():
        if not CALL.search(path.read_text(encoding="utf-8")):
            continue
        nodes = nodes_of(path)
        calls = [node for node in nodes if is_call_of_re(node)]
        if calls:
            names = names_of_patterns(nodes)
            of_whole_values = frozenset(id(each) for node in nodes for each in annotated(node))
            module = load(path)
            for call in calls:
                where = f"{path.relative_to(ROOT)}:{call.lineno}"
                yield Found(where, compile_call(call, module), methods_of(call, names, of_whole_values))


@cache
def source_files() -> tuple[Path, ...]:
    # The engines' scripts run in the environments of the engines, whose packages are missing here.
    files = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return tuple(path for path in files if "scripts" not in path.parts)


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def load(path: Path) -> ModuleType:
    return importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def is_call_of_re(node: ast.AST) -> TypeIs[ast.Call]:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=attr), args=[_, *_]):
            return attr == "compile" or attr in METHODS
    return False


def compile_call(call: ast.Call, module: ModuleType) -> re.Pattern[str] | re.Pattern[bytes]:
    flags = [word.value for word in call.keywords if word.arg == "flags"]
    flags += [each for each in call.args[1:] if "re." in ast.unparse(each)]
    bits = re.RegexFlag(0)
    for flag in flags:
        bits |= eval(ast.unparse(flag), vars(module))  # noqa: S307 - the source of the product
    return re.compile(value_of(call.args[0], module), bits)


def value_of(node: ast.expr, module: ModuleType) -> str | bytes:
    """Returns a pattern as the program would have it, with UNKNOWN for what only a running function knows."""
    try:
        value: str | bytes = eval(ast.unparse(node), dict(vars(module)))  # noqa: S307
    except NameError:
        if not isinstance(node, ast.JoinedStr):
            return UNKNOWN
        parts = [value_of(each, module) for each in node.values]
        return "".join(map(str, parts))
    return value


def names_of_patterns(nodes: Sequence[ast.AST]) -> dict[int, str]:
    """Returns the names that patterns are assigned to, by the id of the call."""
    names = {}
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call):
                names[id(call)] = name
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                names |= {
                    id(value): target.id
                    for target, value in zip(targets, values, strict=True)
                    if isinstance(target, ast.Name)
                }
    return names


def annotated(node: ast.AST) -> list[ast.expr]:
    """Returns what stands beside a type in Annotated: patterns of settings and requests, which match a whole value."""
    match node:
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[_, *more])):
            return more
    return []


def methods_of(call: ast.Call, names: dict[int, str], of_whole_values: frozenset[int]) -> frozenset[str]:
    assert isinstance(call.func, ast.Attribute)
    if call.func.attr in METHODS:
        return frozenset({METHODS[call.func.attr]})
    if id(call) in of_whole_values:
        return frozenset({"fullmatch"})
    used = uses().get(names.get(id(call), ""))
    return frozenset(used or METHODS.values())


@cache
def uses() -> dict[str, set[str]]:
    """Returns the methods by which names are called anywhere in the product."""
    methods: dict[str, set[str]] = defaultdict(set)
    for path in source_files():
        if not USE.search(path.read_text(encoding="utf-8")):
            continue
        for node in nodes_of(path):
            if isinstance(node, ast.Attribute) and node.attr in METHODS:
                match node.value:
                    case ast.Name(id=name) | ast.Attribute(attr=name):
                        methods[name].add(METHODS[node.attr])
    return methods
