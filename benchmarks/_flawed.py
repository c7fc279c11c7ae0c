"""Plants faults on known lines into clean rows, for `evidence.py` and tests.

All keys and people are invented when a file is made, so nothing here looks like a key.
"""

from __future__ import annotations

import csv
import json
import random
import string
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Row = tuple[str, str]
FEW = 12  # of each kind of odd label


@dataclass(frozen=True)
class FlawedFile:
    """A file with planted faults: `lines` by fault, and the lines that were `reworded`, as a person might."""

    rows: tuple[Row, ...]
    held: tuple[Row, ...]
    lines: Mapping[str, frozenset[int]]
    reworded: frozenset[int]


@dataclass
class _FlawBuilder:
    chance: random.Random
    spare: list[Row]
    planted: list[tuple[str, Row]] = field(default_factory=list)

    def plant(self, kind: str, count: int, change: Callable[[Row], Row]) -> None:
        self.planted += [(kind, change(self.spare.pop())) for _ in range(count)]


def add_flaws(rows: Sequence[Row], seed: int, of_each: int = 30) -> FlawedFile:
    """Plants each fault into `of_each` rows. A tenth of all rows becomes a holdout, whose questions some rows
    repeat."""
    chance = random.Random(seed)
    plain = [(" ".join(text.split()), label) for text, label in rows]
    chance.shuffle(plain)
    held = tuple(plain[: len(plain) // 10])
    builder = _FlawBuilder(chance, plain[len(held) :])
    _plant_words(builder, of_each)
    _plant_labels(builder)
    sources = [row for row in builder.spare if len(row[0]) >= 40]
    labels = sorted({label for _, label in plain})
    repeats = [
        *(("copy", _retype(row, chance)) for row in chance.sample(sources, of_each)),
        *(
            ("contradiction", (row[0], _other_label(row[1], labels, chance)))
            for row in chance.sample(sources, of_each)
        ),
        *(("reworded", (_reword(row[0], chance), row[1])) for row in chance.sample(sources, 2 * of_each)),
        *(("overlap", row) for row in chance.sample(held, of_each)),
    ]
    kinds = [*(("", row) for row in builder.spare), *builder.planted]
    chance.shuffle(kinds)
    kinds += chance.sample(repeats, len(repeats))  # after the rows that they repeat
    return _find_lines(kinds, held)


def write(rows: Sequence[Row], path: Path) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def _plant_words(builder: _FlawBuilder, of_each: int) -> None:
    chance = builder.chance
    for kind, makers in (("secret", SECRETS), ("personal_data", PERSONAL), ("special_token", MARKS)):
        for number in range(max(of_each, len(makers))):
            word, around = makers[number % len(makers)](chance), chance.choice(AROUND)
            builder.plant(kind, 1, lambda row, w=word, a=around: (f"{row[0]} {a.format(w)}", row[1]))
    for number in range(2 * len(DECOYS)):
        decoy = DECOYS[number % len(DECOYS)](chance)
        builder.plant("decoy", 1, lambda row, d=decoy: (f"{row[0]} {d}", row[1]))


def _plant_labels(builder: _FlawBuilder) -> None:
    chance = builder.chance
    builder.plant("empty_label", FEW, lambda row: (row[0], chance.choice(("", " ", "\u200b"))))
    builder.plant("empty_text", FEW, lambda row: (chance.choice(("", "  ", "\u2060")), row[1]))
    builder.plant("null_label", FEW, lambda row: (row[0], chance.choice(("nan", "N/A", "None", "null"))))


def _find_lines(kinds: Sequence[tuple[str, Row]], held: Sequence[Row]) -> FlawedFile:
    """Determines duplicates, contradictions and near copies afresh, by the definitions of docs/deciding.md, because the
    original rows contain some too."""
    lines: dict[str, set[int]] = defaultdict(set)
    for line, (kind, _) in enumerate(kinds, 2):
        lines[kind].add(line)
    rows = tuple(row for _, row in kinds)
    usable = [
        (at, row) for at, row in enumerate(rows, 2) if at not in lines["empty_label"] | lines["empty_text"]
    ]
    held_keys = {normalized(text) for text, _ in held}
    lines["overlap"] = {at for at, (text, _) in usable if normalized(text) in held_keys}
    labels_of: dict[str, set[str]] = defaultdict(set)
    lines["duplicate"], lines["contradiction"] = set(), set()
    for at, (text, label) in usable:
        labels = labels_of[normalized(text)]
        if labels:
            lines["duplicate" if normalized(label) in labels else "contradiction"].add(at)
        labels.add(normalized(label))
    lines["near copies"] = _near([(0, text) for text, _ in held] + [(at, text) for at, (text, _) in usable])
    reworded = frozenset(lines.pop("reworded", ()))
    for kind in ("", "copy", "decoy"):
        lines.pop(kind, None)
    return FlawedFile(rows, tuple(held), {kind: frozenset(some) for kind, some in lines.items()}, reworded)


def normalized(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _near(rows: Iterable[tuple[int, str]]) -> set[int]:
    """Returns the lines that share at least 0.8 of all runs of four letters with an earlier row, duplicates aside. It
    compares all pairs that share a run."""
    seen: dict[str, list[int]] = defaultdict(list)
    sizes: list[int] = []
    near, keys = set(), set()
    for line, text in rows:
        if normalized(text) in keys:
            continue
        keys.add(normalized(text))
        mine, common = _runs(text), defaultdict(int)
        for run in mine:
            for other in seen[run]:
                common[other] += 1
            seen[run].append(len(sizes))
        if any(both >= 0.8 * (len(mine) + sizes[other] - both) for other, both in common.items()):
            near.add(line)
        sizes.append(len(mine))
    return near - {0}


def _runs(text: str) -> set[str]:
    letters = "".join(" " if unicodedata.category(c)[0] in "PZC" else c.casefold() for c in text)
    even = f" {' '.join(letters.split())} "
    return {even[at : at + 4] for at in range(len(even) - 3)}


def _other_label(label: str, labels: Sequence[str], chance: random.Random) -> str:
    return chance.choice([name for name in labels if name != label])


def _retype(row: Row, chance: random.Random) -> Row:
    text = chance.choice((row[0], row[0].upper(), f"{row[0]}  ", row[0].replace(" ", "  ", 1)))
    return text, row[1]


def _reword(text: str, chance: random.Random) -> str:
    """Adds a greeting, removes a word, or swaps two letters."""
    words = text.split()
    at = chance.randrange(len(words))
    letter = chance.randrange(1, max(len(words[at]) - 1, 2))
    word = words[at]
    turned = word[: letter - 1] + word[letter : letter + 1] + word[letter - 1 : letter] + word[letter + 1 :]
    return chance.choice(
        (
            f"Hi, {text}",
            f"{text} Thanks!",
            " ".join(words[:at] + words[at + 1 :]),
            " ".join([*words[:at], turned, *words[at + 1 :]]),
        )
    )


def _random_text(letters: str, count: int) -> Callable[[random.Random], str]:
    return lambda chance: "".join(chance.choice(letters) for _ in range(count))


def _template(*parts: str | Callable[[random.Random], str]) -> Callable[[random.Random], str]:
    return lambda chance: "".join(part if isinstance(part, str) else part(chance) for part in parts)


def _mixed_case(count: int) -> Callable[[random.Random], str]:
    """Letters of both cases and digits, at least two of each."""
    rest = _random_text(string.ascii_letters + string.digits, count - 6)
    return _template(_random_text("kqzx", 2), _random_text("0123456789", 2), _random_text("MWTB", 2), rest)


_capitals, _digits = (
    (lambda count: _random_text(string.ascii_uppercase, count)),
    (lambda count: _random_text(string.digits, count)),
)
SECRETS = (
    _template("AK", "IA", _capitals(12), _digits(4)),
    _template("AS", "IA", _capitals(12), _digits(4)),
    _template("-----BEGIN RSA PRIV", "ATE KEY-----"),
    _template("sk", "-proj-", _mixed_case(40)),
    _template("sk", "_live_", _mixed_case(24)),
    _template("wh", "sec_", _mixed_case(32)),
    _template("xo", "xb-", _digits(11), "-", _mixed_case(24)),
    _template("gh", "p_", _mixed_case(36)),
    _template("github", "_pat_", _mixed_case(22)),
    _template(
        "https://hooks", ".slack.com/services/T", _capitals(8), "/B", _capitals(8), "/", _mixed_case(24)
    ),
    _template("hf", "_", _mixed_case(34)),
    _template("gl", "pat-", _mixed_case(20)),
    _template("np", "m_", _mixed_case(36)),
    _template("py", "pi-AgE", _mixed_case(60)),
    _template("ey", "J", _mixed_case(30), ".ey", "J", _mixed_case(60), ".", _mixed_case(43)),
    _template("GOC", "SPX-", _mixed_case(28)),
    _template("AI", "za", _mixed_case(35)),
    _template("password: ", _mixed_case(10)),
    _template("pwd=", _mixed_case(9)),
    _template("api_key = ", _mixed_case(24)),
    _template('"client_secret": "', _mixed_case(30), '"'),
)


def _card(chance: random.Random) -> str:
    digits = chance.choice(("4", "51", "2221"))
    digits += _digits(15 - len(digits))(chance)
    doubled = (sum(divmod(2 * int(d), 10)) if at % 2 == 0 else int(d) for at, d in enumerate(digits))
    number = f"{digits}{-sum(doubled) % 10}"
    return chance.choice(("", " ", "-")).join(number[at : at + 4] for at in range(0, 16, 4))


def _iban(chance: random.Random) -> str:
    account = _digits(18)(chance)
    check = 98 - int(f"{account}131400") % 97  # "DE00" as digits, after the account
    number = f"DE{check:02}{account}"
    return chance.choice((number, " ".join(number[at : at + 4] for at in range(0, 22, 4))))


_name = _random_text(string.ascii_lowercase, 7)
PERSONAL = (
    _template(_name, "@", _name, ".example"),
    _template(_name, ".", _name, "+", _digits(2), "@mail.", _name, ".com"),
    _template("+49 30 ", _digits(7)),
    _template("+1 (", _random_text("23456789", 3), ") 555-01", _digits(2)),
    _template("+44", _random_text("123456789", 1), _digits(9)),
    _card,
    _iban,
)
MARKS = tuple(map(_template, ("<|im_start|>", "<|endoftext|>", "[INST]", "<<SYS>>", "<start_of_turn>")))
AROUND = ("{}", "({})", "it is {}.", "{} does not work", "here:\\n{}", "これは{}です")
DECOYS = (
    _template("My password: reset please"),
    _template("I forgot my password, why"),
    _template("password: ********"),
    _template("the token = expired they say"),
    _template("api key: {{API_KEY}}"),
    _template("order ", _digits(15)),
    _template("invoice 4", _digits(9), " of 20", _digits(2)),
    _template("follow us @", _name),
    _template("1 + 1 = 2, +5 points"),
    _template("I paid 49.90 @ the shop"),
    _template("ticket DE", _digits(8)),
    _template("5 < 7 | 3 > 1"),
)


def make_broken_lines(
    rows: Sequence[Row], seed: int, of_each: int = 5
) -> tuple[list[str], Mapping[str, frozenset[int]]]:
    """Returns lines of chat JSONL, and the numbers of the broken ones by fault."""
    chance = random.Random(seed)
    texts = [("", _chat(row)) for row in rows]
    texts += [(kind, breaks(row)) for kind, breaks in BROKEN for row in chance.sample(list(rows), of_each)]
    chance.shuffle(texts)
    if texts[0][0]:  # the first row determines the format
        texts.insert(0, ("", _chat(rows[0])))
    lines: dict[str, set[int]] = defaultdict(set)
    for line, (kind, _) in enumerate(texts, 1):
        lines[kind].add(line)
    lines.pop("")
    return [text for _, text in texts], {kind: frozenset(some) for kind, some in lines.items()}


def _chat(row: Row, **changed: object) -> str:
    user: dict[str, object] = {"role": "user", "content": row[0]}
    answer = {"role": "assistant", "content": row[1], **changed}
    return json.dumps({"messages": [user, answer]})


def _chat_of(*messages: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]})


BROKEN: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("not_json", lambda row: _chat(row)[:-1]),
    ("not_a_number", lambda row: _chat(row, weight=float("nan"))),
    ("duplicate_key", lambda row: _chat(row).replace('{"role": "user"', '{"role": "user", "role": "user"')),
    ("bad_messages", lambda row: json.dumps({"messages": row[0]})),
    ("unknown_role", lambda row: _chat_of(("customer", row[0]), ("assistant", row[1]))),
    ("no_answer", lambda row: _chat_of(("user", row[0]))),
    ("no_question", lambda row: _chat_of(("system", row[0]), ("assistant", row[1]))),
    ("empty_content", lambda row: _chat_of(("user", row[0]), ("assistant", "\u200b"))),
    ("content_not_text", lambda row: _chat(row, content=7)),
    ("bad_weight", lambda row: _chat(row, weight=2)),
    ("nothing_to_learn", lambda row: _chat(row, weight=0)),
    ("lone_surrogate", lambda row: _chat((f"{row[0]} \ud83d", row[1]))),
)
