"""What a measurement needs of a worker process: prompts and their tokens, rung 0, the judgement, the plots.

Runs in worker processes: scikit-learn, scipy and matplotlib are imported here only, at use. Asks no model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from bot.asking.askers import key_of
from bot.asking.lanes import Question
from bot.measured import CurvePlan, LadderPlan
from bot.results import Refusal
from trainers import uploaded
from trainers.dataset import Example, read
from trainers.dataset.rules.sensitive import SECRET, faults_in
from trainers.measuring import prompts, retrieval
from trainers.measuring.values import Arm, Curve, Ladder, Reply
from trainers.tokens import count_prompts, encoding_of
from trainers.types import Message

SHOTS = 10
PASSAGES = 4
MAX_TOKENS_LABEL, MAX_TOKENS_TEXT = 24, 256
ASSUMED_SHARE = 0.15  # how far off a count by a tokenizer that is not the model's own may be
KEYS, PROMPTS = "keys.json", "prompts.jsonl"


@dataclass(frozen=True)
class ArmKeys:
    """One arm's questions in the holdout's order: the keys of their answers, and the tokens of their prompts
    (rounded up where the model's tokenizer is not known; 0 for an arm that asks nobody)."""

    keys: tuple[str, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class JudgedLadder:
    ladder: Ladder
    plot: Path | None


@dataclass(frozen=True)
class JudgedCurve:
    curve: Curve
    plot: Path | None


def prepare(plan: LadderPlan, files: Path, folder: Path, seed: int) -> Mapping[Arm, ArmKeys]:
    """Write what each arm asks into `folder`. Examples and passages come from the training rows and from the
    team's documents, never from the holdout. The same plan gives the same questions."""
    train, holdout = examples(files, plan.train_sha256), examples(files, plan.holdout_sha256)
    passages = [passage for sha256 in plan.documents for passage in passages_in(files / sha256)]
    asked = {arm: _prompts(arm, plan, train, holdout, passages, seed) for arm in plan.arms if arm.model}
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts(folder / PROMPTS, _with_keys(plan, asked))
    keys = {arm: _keys(arm, plan, asked.get(arm), len(holdout), seed) for arm in plan.arms}
    lines = [{"arm": asdict(arm), "keys": one.keys, "tokens": one.tokens} for arm, one in keys.items()]
    replace_lines(folder / KEYS, [json.dumps(line) for line in lines])  # last: where it is, the rest is too
    return keys


def read_keys(folder: Path) -> Mapping[Arm, ArmKeys] | None:
    """What `prepare` has written; None where it was not through."""
    path = folder / KEYS
    return _read_keys(path, path.stat().st_mtime_ns) if path.exists() else None


@lru_cache(maxsize=16)
def _read_keys(path: Path, _written_at: int) -> Mapping[Arm, ArmKeys]:
    """Once a process: an open ladder asks for them at each tick."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {Arm(**one["arm"]): ArmKeys(tuple(one["keys"]), tuple(one["tokens"])) for one in lines}


def read_questions(folder: Path, plan: LadderPlan, wanted: frozenset[str]) -> list[Question]:
    """Those questions whose keys are wanted, arm by arm."""
    return questions_in(folder / PROMPTS, plan, wanted, max_tokens(plan.labels))


def questions_in(path: Path, plan: LadderPlan, wanted: frozenset[str], longest: int) -> list[Question]:
    """Of those that `write_prompts` wrote; `longest` is the most tokens of an answer, less what is thought."""
    found = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            key, model, messages = json.loads(line)
            if key in wanted:
                said = tuple(Message(role, content) for role, content in messages)
                cap = longest + plan.room(model)
                found.append(Question(key, model, model.split("/", 1)[1], said, cap))
    return found


def max_tokens(labels: Sequence[str]) -> int:
    """The cap on an answer, less what is thought before it."""
    return MAX_TOKENS_LABEL if labels else MAX_TOKENS_TEXT


def classical(plan: LadderPlan, files: Path, seed: int) -> tuple[Reply, ...]:
    """Rung 0's answers to the holdout."""
    from trainers.measuring.classical import answer

    return answer(examples(files, plan.train_sha256), examples(files, plan.holdout_sha256), seed)


def judge_ladder(
    plan: LadderPlan,
    replies: Mapping[Arm, Sequence[Reply]],
    files: Path,
    folder: Path,
    now: float,
    verdicts: Mapping[Arm, Sequence[float]] | None = None,
) -> JudgedLadder:
    """`now` in unix seconds; `verdicts` are a judge's on each answer, between 0 and 1."""
    from bot.drawings import ladder as drawing
    from trainers.measuring.ladder import judge

    judged = judge(
        replies,
        examples(files, plan.holdout_sha256),
        plan.labels,
        plan.bar,
        plan.price_of,
        dataset=plan.dataset,
        version=plan.version,
        holdout_sha256=plan.holdout_sha256,
        measured_at=now,
        verdicts=verdicts,
    )
    return JudgedLadder(judged, drawing.draw(judged, folder / "ladder.png"))


def judge_curve(plan: CurvePlan, files: Path, folder: Path, seed: int) -> JudgedCurve:
    from bot.drawings import curve as drawing
    from trainers.measuring.curve import classical_curve

    found = classical_curve(
        examples(files, plan.train_sha256),
        examples(files, plan.holdout_sha256),
        seed,
        plan.predict,
        dataset=plan.dataset,
        version=plan.version,
        holdout_sha256=plan.holdout_sha256,
    )
    folder.mkdir(parents=True, exist_ok=True)
    return JudgedCurve(found, drawing.draw(found, folder / "curve.png"))


def count_passages(path: Path) -> int | Refusal:
    """How many passages a document has; why it can't be used."""
    try:
        passages = passages_in(path)
    except UnicodeDecodeError:
        return Refusal("It is no plain text in UTF-8. Save it as text (.txt or .md) and hand it over again.")
    faults = [fault for passage in passages for fault in faults_in(passage)]
    secret = next((fault for fault in faults if fault.rule == SECRET), None)
    if secret:
        return Refusal(f"It {secret.said}. {secret.rule.cure}")
    return len(passages) or Refusal("There is no text in it.")


def passages_in(path: Path) -> tuple[str, ...]:
    """A document's passages. UnicodeDecodeError where it is no text."""
    text = path.read_bytes().decode("utf-8-sig")
    clean = (one if one.isprintable() or one == "\n" else " " if one.isspace() else "" for one in text)
    return retrieval.passages_of("".join(clean))


def examples(files: Path, sha256: str) -> tuple[Example, ...]:
    """The rows of a part of a dataset. Raises Changed where the file isn't the one that was approved."""
    path = files / f"{sha256}.jsonl"
    uploaded.check(path, sha256)
    return read(path, path.name).examples


def _prompts(
    arm: Arm,
    plan: LadderPlan,
    train: Sequence[Example],
    holdout: Sequence[Example],
    passages: Sequence[str],
    seed: int,
) -> list[tuple[Message, ...]]:
    shown = [] if arm.rung != "retrieval" else _shown(arm, plan, passages)
    match arm.rung:
        case "zero":
            return [prompts.zero_shot(row, plan.labels, plan.prompt) for row in holdout]
        case "kshot":
            shots = prompts.balanced_shots(train, SHOTS, seed)
            return [prompts.k_shot(row, plan.labels, plan.prompt, shots) for row in holdout]
        case "retrieval" if shown:
            near = retrieval.nearest_passages(shown, holdout, PASSAGES)
            return [
                prompts.with_passages(row, plan.labels, plan.prompt, one)
                for row, one in zip(holdout, near, strict=True)
            ]
        case "retrieval":
            nearest = retrieval.nearest(train, holdout, SHOTS)
            return [
                prompts.k_shot(row, plan.labels, plan.prompt, one)
                for row, one in zip(holdout, nearest, strict=True)
            ]
        case "classical" | "tuned":
            raise ValueError(f"the rung {arm.rung} asks no model by a prompt")


def _shown(arm: Arm, plan: LadderPlan, passages: Sequence[str]) -> Sequence[str]:
    """Personal data does not leave for a vendor without a person's word, and a secret that patterns have come to know
    since the document was given goes nowhere."""
    withheld = arm.model in plan.withheld_from
    return [
        passage
        for passage in passages
        if not any(withheld or fault.rule == SECRET for fault in faults_in(passage))
    ]


def _keys(
    arm: Arm, plan: LadderPlan, asked: Sequence[tuple[Message, ...]] | None, rows: int, seed: int
) -> ArmKeys:
    if asked is None or arm.model is None:
        return ArmKeys(tuple(_classical_key(plan, row, seed) for row in range(rows)), (0,) * rows)
    encoding = encoding_of(arm.model.split("/", 1)[1])
    more = 1 + ASSUMED_SHARE * encoding.assumed
    tokens = tuple(int(count * more) + 1 for count in count_prompts(asked, encoding))
    cap = max_tokens(plan.labels) + plan.room(arm.model)
    return ArmKeys(tuple(key_of(arm.model, one, cap) for one in asked), tokens)


def _classical_key(plan: LadderPlan, row: int, seed: int) -> str:
    said = json.dumps(["classical", plan.train_sha256, plan.holdout_sha256, row, seed])
    return hashlib.sha256(said.encode()).hexdigest()


def _with_keys(
    plan: LadderPlan, asked: Mapping[Arm, Sequence[tuple[Message, ...]]]
) -> Iterable[tuple[str, str, tuple[Message, ...]]]:
    for arm, messages in asked.items():
        model = str(arm.model)
        cap = max_tokens(plan.labels) + plan.room(model)
        for one in messages:
            yield key_of(model, one, cap), model, one


def write_prompts(path: Path, asked: Iterable[tuple[str, str, tuple[Message, ...]]]) -> None:
    """Each with the key of its answer and its model, 'provider/model'."""
    replace_lines(
        path, (json.dumps([key, model, [[m.role, m.content] for m in one]]) for key, model, one in asked)
    )


def replace_lines(path: Path, lines: Iterable[str]) -> None:
    """Whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    partial.replace(path)
