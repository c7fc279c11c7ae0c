"""Prints measures of the code's structure: `python docs/house.py`. Counted with ast over bot, trainers and storage.

`tests/test_structure.py` has the limits. Lines and files are printed, not judged. The table at the end shows how much a
reader meets on each line. A habit that makes it high (two values assigned in one line, a branch inside a literal) is
worth changing, but no line is unfolded only to lower the figure.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bot", "trainers", "storage")
FEW_LINES = 60
MANY_LINES = 600
MANY_FILES = 20
DENSEST = 10  # of the files, printed one by one
LONG_FILE = 100  # code lines: a shorter file says little about its density
# Gerunds and participles that are nouns of the field.
TERMS = frozenset(
    {
        "training",
        "serving",
        "monitoring",
        "scheduling",
        "pricing",
        "sizing",
        "packing",
        "sharding",
        "decoding",
        "sampling",
    }
    | {"embedding"}
    | {"distributed", "halving", "merged"}  # torch.distributed, successive halving, the export form `merged`
)
# As variable names, these say nothing about the value.
BANNED_NAMES = frozenset({"one", "said", "found", "whole", "made", "kept", "asked", "known", "told", "given"})

# Packed assignments and ternaries are counted per 1,000 lines.
HEADING = "  lines  nodes  packed  ternaries  nested  splatted  comments"
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Density:
    """What one file or several hold. `code_lines` leaves out blanks, comments and docstrings; `nodes` are those of the
    syntax trees. `packed` are assignments such as `a, b = x, y`; `ternaries` are `x if c else y`, of which `nested` are
    in another one, and `splatted` are unpacked by a star."""

    code_lines: int = 0
    nodes: int = 0
    packed: int = 0
    ternaries: int = 0
    nested: int = 0
    splatted: int = 0
    comment_lines: int = 0

    def __add__(self, other: Density) -> Density:
        return Density(
            code_lines=self.code_lines + other.code_lines,
            nodes=self.nodes + other.nodes,
            packed=self.packed + other.packed,
            ternaries=self.ternaries + other.ternaries,
            nested=self.nested + other.nested,
            splatted=self.splatted + other.splatted,
            comment_lines=self.comment_lines + other.comment_lines,
        )

    @property
    def nodes_a_line(self) -> float:
        return self.nodes / max(self.code_lines, 1)

    @property
    def comment_share(self) -> float:
        return self.comment_lines / max(self.code_lines + self.comment_lines, 1)

    def per_1000(self, count: int) -> float:
        return 1000 * count / max(self.code_lines, 1)


@dataclass(frozen=True)
class Module:
    """A file, its dotted name and its syntax tree. `ours` are the names of all our modules."""

    name: str
    path: Path
    text: str
    tree: ast.Module
    ours: frozenset[str] = frozenset()

    @cached_property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of the syntax tree, a class before its body."""
        return tuple(ast.walk(self.tree))

    @cached_property
    def imports(self) -> frozenset[str]:
        """The names of our own modules that it imports, those in its functions included."""
        return frozenset(_imported(_running(self.tree), self.ours)) - {self.name}

    @cached_property
    def density(self) -> Density:
        return measure(self.text, self.tree)

    @property
    def header_lines(self) -> int:
        """The number of lines before the first statement that is neither docstring nor import."""
        body = self.tree.body
        rest = [node for node in body if not _is_header(node)]
        return min((node.lineno for node in rest), default=self.lines + 1) - 1

    @property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [node for node in self.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def read_modules(root: Path = ROOT, packages: Sequence[str] = PACKAGES) -> list[Module]:
    """Returns every module of these packages, by default of the product, sorted by path."""
    paths = sorted(path for package in packages for path in (root / package).rglob("*.py"))
    names = frozenset(_dotted(path.relative_to(root)) for path in paths)
    return [_read(root, path, names) for path in paths]


def find_circles(modules: Sequence[Module]) -> list[list[str]]:
    """Returns groups of modules that import each other (Tarjan's strongly connected components), imports inside
    functions included."""
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


def read_doors(modules: Sequence[Module]) -> dict[str, tuple[str, ...]]:
    """Returns PUBLIC_MODULES of each package that has it: those of its modules that others may import."""
    doors = {}
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PUBLIC_MODULES":
                doors[module.name] = ast.literal_eval(node.value)
    return doors


def imports_from_outside(modules: Sequence[Module], package: str) -> dict[str, set[str]]:
    """Returns the modules outside of `package` that import one inside, by the inner one's name below the package."""
    inside = f"{package}."
    users: dict[str, set[str]] = {}
    for module in modules:
        if module.name == package or module.name.startswith(inside):
            continue
        for name in module.imports:
            if name.startswith(inside):
                users.setdefault(name.removeprefix(inside), set()).add(module.name)
    return users


def find_gerunds(modules: Sequence[Module]) -> list[str]:
    """Returns modules whose last word is a gerund or participle, except terms of the field."""
    return [module.name for module in modules if _is_gerund(module.name.rsplit(".", 1)[-1])]


def count_banned_names(modules: Sequence[Module]) -> Counter[str]:
    """Counts variables and parameters with a banned name, by module."""
    counts: Counter[str] = Counter()
    for module in modules:
        counts[module.name] = sum(name in BANNED_NAMES for name in _local_names(module))
    return counts


def find_folded_ternaries(modules: Sequence[Module]) -> list[str]:
    """Returns the places where a ternary is nested in another one or unpacked by a star."""
    return [
        f"{module.path}:{node.lineno}"
        for module in modules
        for node in module.nodes
        if isinstance(node, ast.expr) and _is_folded(node)
    ]


def find_wide_assignments(modules: Sequence[Module]) -> list[str]:
    """Returns the places where one line assigns three or more values that have nothing to do with each other."""
    return [
        f"{module.path}:{node.lineno}"
        for module in modules
        for node in module.nodes
        if isinstance(node, ast.Assign) and _is_packed(node) and len(_elements(node.value)) > 2
    ]


def crowded_folders(modules: Sequence[Module]) -> dict[str, int]:
    """Returns folders with more than 20 modules, with their number."""
    counts = Counter(str(module.path.parent) for module in modules if module.path.stem != "__init__")
    return {folder: count for folder, count in counts.items() if count > MANY_FILES}


def measure(text: str, tree: ast.Module) -> Density:
    """Measures one file. `tree` is the syntax tree of `text`."""
    docstring_lines = {line for lines in _docstrings(tree) for line in lines}
    comment_lines = _comment_lines(text)
    code_lines = 0
    for number, line in enumerate(text.splitlines(), 1):
        is_comment = line.lstrip().startswith("#")
        if line.strip() and not is_comment and number not in docstring_lines:
            code_lines += 1
    nodes = list(ast.walk(tree))
    ternaries = [node for node in nodes if isinstance(node, ast.IfExp)]
    return Density(
        code_lines=code_lines,
        nodes=len(nodes),
        packed=sum(map(_is_packed, nodes)),
        ternaries=len(ternaries),
        nested=sum(map(_holds_another, ternaries)),
        splatted=sum(map(_is_splatted, nodes)),
        comment_lines=len(comment_lines),
    )


def total(densities: Iterable[Density]) -> Density:
    return sum(densities, Density())


def describe(density: Density) -> str:
    """One line of the table that `python docs/house.py` prints."""
    return (
        f"{density.code_lines:7,} {density.nodes_a_line:6.1f} {density.per_1000(density.packed):7.1f} "
        f"{density.per_1000(density.ternaries):10.1f} {density.nested:7} {density.splatted:9} "
        f"{density.comment_share:9.1%}"
    )


def _docstrings(tree: ast.Module) -> Iterator[range]:
    """Yields the lines of each docstring."""
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            yield range(text.lineno, (text.end_lineno or text.lineno) + 1)


def _comment_lines(text: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def _is_packed(node: ast.AST) -> bool:
    """True for `a, b = x, y`; a pair that a call returns is one thought."""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    )


def _elements(value: ast.expr) -> list[ast.expr]:
    return value.elts if isinstance(value, ast.Tuple) else []


def _is_folded(node: ast.expr) -> bool:
    return _is_splatted(node) or (isinstance(node, ast.IfExp) and _holds_another(node))


def _is_splatted(node: ast.AST) -> bool:
    return isinstance(node, ast.Starred) and isinstance(node.value, ast.IfExp)


def _holds_another(ternary: ast.IfExp) -> bool:
    parts = (ternary.test, ternary.body, ternary.orelse)
    return any(isinstance(node, ast.IfExp) for part in parts for node in ast.walk(part))


def main() -> None:
    modules = read_modules()
    lines = [module.lines for module in modules]
    sizes = [module.lines for module in modules if module.path.stem != "__init__"]
    functions = [_length(function) for module in modules for function in module.functions]
    n_lines = sum(lines)
    print(f"product lines            {n_lines:,}")
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
    header_share = sum(module.header_lines for module in modules) / n_lines
    print(f"module headers           {header_share:.1%} of all lines")
    print(f"names that say nothing   {sum(count_banned_names(modules).values())}")
    print(f"\n{'':34}{HEADING}")
    for folder, density in _densities(modules):
        print(f"{folder:34}{describe(density)}")
    print("\nthe densest files")
    long_files = [module for module in modules if module.density.code_lines > LONG_FILE]
    long_files.sort(key=lambda module: module.density.nodes_a_line, reverse=True)
    for module in long_files[:DENSEST]:
        print(f"    {module.density.nodes_a_line:.1f} nodes a line: {module.path}")


def _densities(modules: Sequence[Module]) -> Iterator[tuple[str, Density]]:
    """Yields the density of the product, and of each folder with the files directly in it."""
    yield "the product", total(module.density for module in modules)
    folders = sorted({module.path.parent for module in modules})
    for folder in folders:
        inside = [module.density for module in modules if module.path.parent == folder]
        yield str(folder), total(inside)


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read(root: Path, path: Path, names: frozenset[str]) -> Module:
    text = path.read_text(encoding="utf-8")
    place = path.relative_to(root)
    return Module(_dotted(place), place, text, ast.parse(text), names)


def _running(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yields every statement that may run, hence none under TYPE_CHECKING."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.stmt):
            yield node
        # No expression has a statement inside.
        waiting.extend([child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)])


def _imported(statements: Iterable[ast.stmt], names: frozenset[str]) -> Iterator[str]:
    """Yields those of the modules `names` that these statements import."""
    for node in statements:
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


def _local_names(module: Module) -> Iterator[str]:
    """Yields the names of variables and parameters, without fields of classes."""
    fields: set[int] = set()
    for node in module.nodes:
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
