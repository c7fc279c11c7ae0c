"""Prints measures of the code's structure: `python docs/house.py`. Counted with ast over bot, trainers and storage.

`tests/test_structure.py` has the limits.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bot", "trainers", "storage")
FEW_LINES, MANY_LINES, MANY_FILES = 60, 600, 20
# Gerunds and participles that are nouns of the field.
TERMS = frozenset(
    {"training", "serving", "scheduling", "pricing", "sizing", "packing", "sharding", "decoding", "embedding"}
    | {"distributed", "halving", "merged"}  # torch.distributed, successive halving, the export form `merged`
)
# As variable names, these say nothing about the value.
BANNED_NAMES = frozenset({"one", "said", "found", "whole", "made", "kept", "asked", "known", "told", "given"})


@dataclass(frozen=True)
class Module:
    """A file: its dotted name, its syntax tree, and the names of our own modules that it imports at its top level."""

    name: str
    path: Path
    tree: ast.Module
    lines: int
    imports: frozenset[str] = field(default_factory=frozenset)

    @property
    def header_lines(self) -> int:
        """The number of lines before the first statement that is neither docstring nor import."""
        body = self.tree.body
        rest = [node for node in body if not _is_header(node)]
        return min((node.lineno for node in rest), default=self.lines + 1) - 1

    @property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [
            node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]


def read_modules(root: Path = ROOT, packages: Sequence[str] = PACKAGES) -> list[Module]:
    """Returns every module of these packages, by default of the product, sorted by path."""
    paths = sorted(path for package in packages for path in (root / package).rglob("*.py"))
    names = {_dotted(path.relative_to(root)) for path in paths}
    return [_read(root, path, names) for path in paths]


def find_circles(modules: Sequence[Module]) -> list[list[str]]:
    """Returns groups of modules that import each other at their top level (Tarjan's strongly connected components)."""
    graph = {module.name: sorted(module.imports) for module in modules}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            start = stack.index(name)
            if len(stack) - start > 1:
                circles.append(sorted(stack[start:]))
            del stack[start:]

    for name in graph:
        if name not in index:
            visit(name)
    return circles


def find_gerunds(modules: Sequence[Module]) -> list[str]:
    """Returns modules whose last word is a gerund or participle, except terms of the field."""
    return [module.name for module in modules if _is_gerund(module.name.rsplit(".", 1)[-1])]


def count_banned_names(modules: Sequence[Module]) -> Counter[str]:
    """Counts variables and parameters with a banned name, by module."""
    counts: Counter[str] = Counter()
    for module in modules:
        counts[module.name] = sum(name in BANNED_NAMES for name in _local_names(module.tree))
    return counts


def crowded_folders(modules: Sequence[Module]) -> dict[str, int]:
    """Returns folders with more than 20 modules, with their number."""
    counts = Counter(str(module.path.parent) for module in modules if module.path.stem != "__init__")
    return {folder: count for folder, count in counts.items() if count > MANY_FILES}


def main() -> None:
    modules = read_modules()
    lines = [module.lines for module in modules]
    sizes = [module.lines for module in modules if module.path.stem != "__init__"]
    functions = [_length(function) for module in modules for function in module.functions]
    total = sum(lines)
    print(f"product lines            {total:,}")
    print(f"files                    {len(modules)}")
    print(f"lines a file             median {statistics.median(sizes):.0f}, p90 {_p90(sizes)}")
    print(f"files under {FEW_LINES} lines     {sum(size < FEW_LINES for size in sizes)}")
    print(f"files over {MANY_LINES} lines     {sum(size > MANY_LINES for size in sizes)}")
    print(f"lines a function         median {statistics.median(functions):.0f}, p90 {_p90(functions)}")
    print(f"circles                  {len(find_circles(modules))}")
    for circle in find_circles(modules):
        print(f"    {', '.join(circle)}")
    print(f"folders over {MANY_FILES} files    {len(crowded_folders(modules))}")
    for folder, count in sorted(crowded_folders(modules).items()):
        print(f"    {folder} {count}")
    print(f"gerunds as modules       {len(find_gerunds(modules))}")
    for name in find_gerunds(modules):
        print(f"    {name}")
    print(
        f"module headers           {sum(module.header_lines for module in modules) / total:.1%} of all lines"
    )
    print(f"names that say nothing   {sum(count_banned_names(modules).values())}")


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read(root: Path, path: Path, names: set[str]) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    name = _dotted(path.relative_to(root))
    imports = frozenset(target for target in _imported(tree, names) if target != name)
    return Module(name, path.relative_to(root), tree, len(text.splitlines()), imports)


def _imported(tree: ast.Module, names: set[str]) -> Iterator[str]:
    """Yields the modules imported together with this one, not those in functions or under TYPE_CHECKING."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in names:
                    yield inner
                elif node.module in names:
                    yield node.module


def _is_header(node: ast.stmt) -> bool:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(node, ast.Import | ast.ImportFrom)


def _is_gerund(stem: str) -> bool:
    words = stem.split("_")
    return words[-1] not in TERMS and (re.fullmatch(r"\w{2,}(ing|ed)", words[-1]) is not None)


def _local_names(tree: ast.Module) -> Iterator[str]:
    """Yields the names of variables and parameters, without fields of classes."""
    fields: set[int] = set()
    for node in ast.walk(tree):  # a class comes before its body
        if isinstance(node, ast.ClassDef):
            fields |= {id(field.target) for field in node.body if isinstance(field, ast.AnnAssign)}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in fields:
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _p90(values: Sequence[int]) -> int:
    return sorted(values)[int(0.9 * (len(values) - 1))]


if __name__ == "__main__":
    main()
