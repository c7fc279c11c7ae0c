"""The work of evaluations, runs and learning curves that is done in worker processes: prompts, the answers of free
candidates, scores, plots. Heavy libraries are imported at use; no model is asked."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from bot.llm_client import Question, key_of
from bot.rules.plans import Plan
from bot.services.datasets.dataset_worker import examples
from bot.services.evidence.candidate_prompts import build_prompts
from bot.services.evidence.retrieved_texts import look_up
from bot.values.evaluations import ComparisonPlan, CurvePlan
from bot.values.runs import Refusal
from trainers.dataset import Example, Report
from trainers.encoders import DEFAULT_ENCODER, EncoderError
from trainers.encoders.embedding import StoredVectors, find_encoder, load_encoder
from trainers.evaluation import prompts
from trainers.evaluation.json_fields import read_fields
from trainers.evaluation.results import (
    Candidate,
    Comparison,
    Curve,
    EncoderUse,
    Reply,
    Retrieval,
    Scoring,
)
from trainers.evaluation.retrieval import Nearest
from trainers.evaluation.scores import is_right_call, score, scoring_of, strip_thoughts, task_of
from trainers.evaluation.statistics import exact_match
from trainers.evaluation.tfidf import label_of, text_of
from trainers.json_values import from_object, to_object
from trainers.models.base_models import find_preset
from trainers.models.tokens import Encoding, count_prompts, count_texts, encoding_of
from trainers.types import Message

NOTHING_TO_SHOW = (
    "none of the training rows can be shown as an example, because all of them offer or call functions, which not "
    "every model can read in a prompt."
)
MAX_TOKENS_VERDICT = 24
LEAST_TOKENS_TEXT = 256
MOST_TOKENS_TEXT = 2_048
LEAST_TOKENS_JSON = 64  # room for a code fence and for indentation around a few short fields
LEAST_TOKENS_LABEL = 16
ROOM_AROUND_LABEL = 8
ASSUMED_SHARE = 0.15  # how far off a token count may be if it is not made by the model's own tokenizer
VENDORS_WORK = 100.0  # as much as a short prompt to our own model
# The files in a measurement's folder.
KEYS = "keys.json"
PROMPTS = "prompts.jsonl"
VECTORS = "vectors.npz"
READ_BY_ENCODER = ("encoder", "retrieval")  # candidates that need an encoder
SHOTS_FOLDER = "shots"  # in a measurement's folder: the questions that choose the number of examples


@dataclass(frozen=True)
class CandidateKeys:
    """One candidate's questions in the order of the holdout: the keys of their answers, and the tokens of their
    prompts, which are rounded up if the model's tokenizer is unknown, and 0 if no model is asked. `work` is how long an
    answer takes relative to other candidates' (see `_work`). `retrieval` describes what the prompts retrieve, and
    `encoder` the model that reads the texts. `failed` says why there are no questions."""

    keys: tuple[str, ...]
    tokens: tuple[int, ...]
    work: float = 1.0
    retrieval: Retrieval | None = None
    failed: str | None = None
    encoder: EncoderUse | None = None


@dataclass(frozen=True)
class JudgedCurve:
    """A curve and its plot. `beside` is the classical model's curve on the same rows, drawn beside a tuned model's;
    None for other curves, and if there are too many rows to compute it quickly."""

    curve: Curve
    plot: Path | None
    beside: Curve | None = None


def prepare(plan: ComparisonPlan, files: Path, folder: Path, seed: int) -> Mapping[Candidate, CandidateKeys]:
    """Writes each candidate's questions into `folder`. The same plan gives the same questions.

    Examples and passages come from the training rows and the team's documents, never from the holdout. If there are
    fewer examples than a candidate asks for, it is named by their number (`ComparisonPlan.built_as`); if there are
    none, it fails.
    """
    train = examples(files, plan.train_sha256)
    holdout = examples(files, plan.holdout_sha256)
    # Two candidates become the same if both ask for more examples than there are: a dict has each once, in order.
    built = dict.fromkeys(_as_built(candidate, train, seed) for candidate in plan.candidates)
    plan = replace(plan, candidates=tuple(built))

    nearest: Mapping[Candidate, Nearest] = {}
    failures: dict[Candidate, str] = {}
    encoder: EncoderUse | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        encoder = choose_encoder_for(plan, train, folder / VECTORS)
        if encoder:
            plan = replace(plan, encoder=encoder.name)
        nearest = look_up(plan, train, holdout, files, folder / VECTORS)
    except EncoderError as error:
        # The other candidates are measured all the same.
        for candidate in plan.candidates:
            if candidate.kind in READ_BY_ENCODER:
                failures[candidate] = str(error)
    failures |= _without_examples(plan, train, nearest)

    to_ask = [candidate for candidate in plan.candidates if candidate not in failures]
    messages = {}
    for candidate in to_ask:
        if candidate.model:
            shown = nearest.get(candidate)
            messages[candidate] = build_prompts(candidate, plan, files, train, holdout, shown, seed)
    tools = [prompts.tools_of(row) for row in holdout]

    keys = {candidate: CandidateKeys((), (), failed=why) for candidate, why in failures.items()}
    keys |= keys_of_candidates(plan, to_ask, messages, tools, seed)
    keys = _with_lookups(keys, nearest, encoder, failures)
    return write_candidates(plan, keys, messages, tools, folder)


def _with_lookups(
    keys: Mapping[Candidate, CandidateKeys],
    nearest: Mapping[Candidate, Nearest],
    encoder: EncoderUse | None,
    failures: Collection[Candidate],
) -> dict[Candidate, CandidateKeys]:
    """Adds what each candidate retrieves, and the model that reads the texts for it."""
    complete = dict(keys)
    for candidate, its in nearest.items():
        if candidate not in failures:
            complete[candidate] = replace(complete[candidate], retrieval=its.retrieval)
    for candidate in complete:
        if candidate.kind in READ_BY_ENCODER:
            complete[candidate] = replace(complete[candidate], encoder=encoder)
    return complete


def _without_examples(
    plan: ComparisonPlan, train: Sequence[Example], nearest: Mapping[Candidate, Nearest]
) -> dict[Candidate, str]:
    """Returns the candidates that need examples for which there are none, each with the reason."""
    without = {candidate for candidate, its in nearest.items() if its.retrieval.k == 0}
    if not prompts.can_be_shown(train):
        for candidate in plan.candidates:
            if candidate.kind == "kshot" and candidate.shots != 0:
                without.add(candidate)
    return dict.fromkeys(without, NOTHING_TO_SHOW)


def choose_encoder_for(plan: ComparisonPlan, train: Sequence[Example], vectors: Path) -> EncoderUse | None:
    """Returns the encoder for the plan's candidates, None if no candidate needs one. The vectors of the rows that
    choose are stored in the file `vectors`. Raises EncoderError."""
    from trainers.encoders.choice import choose_encoder

    if not any(candidate.kind in READ_BY_ENCODER for candidate in plan.candidates):
        return None
    targets: list[Sequence[str]] = []
    if plan.labels:
        targets = [[label_of(row) for row in train]]
    elif plan.has_objects:
        # A field whose values hardly repeat, such as an order's number, says nothing about which texts are alike.
        targets = [field.values for field in read_fields(train).fields if field.repeating_rows]
    texts = [text_of(row) for row in train]
    name = plan.encoder or DEFAULT_ENCODER
    return choose_encoder(name, texts, targets, lambda encoder: StoredVectors(encoder, vectors))


def _as_built(candidate: Candidate, train: Sequence[Example], seed: int) -> Candidate:
    """Returns the candidate with the number of examples that the training rows have for it."""
    if candidate.kind != "kshot":
        return candidate
    drawn = len(prompts.balanced_shots(train, candidate.examples, seed))
    if drawn in (0, candidate.examples):
        return candidate
    return replace(candidate, shots=drawn)


def keys_of_candidates(
    plan: ComparisonPlan,
    candidates: Sequence[Candidate],
    messages: Mapping[Candidate, Sequence[tuple[Message, ...]]],
    tools: Sequence[str],
    seed: int,
) -> dict[Candidate, CandidateKeys]:
    """Returns the keys of these candidates' answers. `tools` are the tools that each row offers."""
    keys = {}
    for candidate in candidates:
        keys[candidate] = _candidate_keys(candidate, plan, messages.get(candidate), tools, seed)
    return keys


def write_candidates(
    plan: ComparisonPlan,
    keys: Mapping[Candidate, CandidateKeys],
    messages: Mapping[Candidate, Sequence[tuple[Message, ...]]],
    tools: Sequence[str],
    folder: Path,
) -> Mapping[Candidate, CandidateKeys]:
    """Writes the prompts of candidates and the keys of their answers for `read_keys` and `read_questions`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts(folder / PROMPTS, _with_keys(plan, messages, tools))
    lines = []
    for candidate, its in keys.items():
        lines.append(json.dumps({"arm": to_object(candidate), **asdict(its)}))
    # Last, since its presence means that all is written.
    replace_lines(folder / KEYS, lines)
    return keys


def read_keys(folder: Path) -> Mapping[Candidate, CandidateKeys] | None:
    """Returns the keys that `prepare` wrote, None if it has not finished."""
    path = folder / KEYS
    if not path.exists():
        return None
    # The file is replaced when a candidate is added, so its time is a part of what is cached.
    return _read_keys(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)  # an open comparison needs its keys at each tick
def _read_keys(path: Path, _written_at: int) -> Mapping[Candidate, CandidateKeys]:
    keys = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        its_keys = json.loads(line)
        # The former word for a candidate, kept so that files of older versions can be read.
        candidate = from_object(Candidate, its_keys.pop("arm"))
        keys[candidate] = from_object(CandidateKeys, its_keys)
    return keys


def keys_by_candidate(keys: Mapping[Candidate, CandidateKeys]) -> Mapping[Candidate, tuple[str, ...]]:
    return {candidate: keys.keys for candidate, keys in keys.items()}


def read_questions(folder: Path, plan: ComparisonPlan, keys: frozenset[str]) -> list[Question]:
    """Returns the questions with these keys, candidate by candidate."""
    tokens: dict[str, int] = {}
    keys_of = read_keys(folder) or {}
    for its in keys_of.values():
        tokens.update(zip(its.keys, its.tokens, strict=True))
    longest = plan_max_tokens(plan)
    return read_questions_file(folder / PROMPTS, plan, keys, longest, tokens)


def read_questions_file(
    path: Path,
    plan: ComparisonPlan,
    keys: frozenset[str],
    longest: int,
    tokens: Mapping[str, int],
) -> list[Question]:
    """Returns questions that `write_prompts` wrote. `longest` is the maximum tokens of an answer without thinking,
    `tokens` are those of the prompts, as far as they were counted."""
    questions = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            # files of older versions have no tools, and no `extra` in a message
            key, model, messages, *tools = json.loads(line)
            if key not in keys:
                continue
            prompt = [Message(role, content, extra="".join(extra)) for role, content, *extra in messages]
            _, own_name = model.split("/", 1)
            question = Question(
                key,
                model,
                at_provider=own_name,
                messages=tuple(prompt),
                max_tokens=longest + plan.room(model),
                tools="".join(tools),
                prompt_tokens=tokens.get(key),
            )
            questions.append(question)
    return questions


def plan_max_tokens(plan: ComparisonPlan) -> int:
    return max_tokens(plan.labels, plan.longest_answer, plan.scoring)


def report_max_tokens(report: Report) -> int:
    labels = [count.label for count in report.labels]
    return max_tokens(labels, report.tokens.answer_most, report.scoring)


def max_tokens(labels: Sequence[str], longest: int, scoring: Scoring | None) -> int:
    """Returns the cap on an answer's tokens without thinking, because a model that never stops is billed and waited for
    until the cap.

    Labels get room for the longest one, at two bytes per token, with a few words around it. Free text gets the tokens
    of the dataset's `longest` answer, plus a quarter for other tokenizers. JSON gets twice as many, since a model may
    indent it, and JSON that is cut off is worthless; but no room to talk on after it, which an untrained model does.
    """
    if labels:
        longest_bytes = max(len(label.encode()) for label in labels)
        return max(LEAST_TOKENS_LABEL, ROOM_AROUND_LABEL + longest_bytes // 2)
    if scoring == "json" and longest:
        needed = max(LEAST_TOKENS_JSON, 2 * longest)
    else:
        needed = max(LEAST_TOKENS_TEXT, longest * 5 // 4)
    return min(needed, MOST_TOKENS_TEXT)


def classical_answers(plan: ComparisonPlan | Plan, files: Path, seed: int) -> tuple[Reply, ...]:
    """Returns the classical model's answers to the holdout: labels, or JSON objects field by field."""
    from trainers.evaluation import json_fields, tfidf

    train = examples(files, plan.train_sha256)
    holdout = examples(files, plan.holdout_sha256)
    if plan.labels:
        return tfidf.classify_holdout(train, holdout, seed)
    return json_fields.classify_holdout(train, holdout, seed)


def free_answers(
    candidate: Candidate, plan: ComparisonPlan, files: Path, folder: Path, seed: int
) -> tuple[Reply, ...] | Refusal:
    """Returns a free candidate's answers to the holdout, or why its encoder can't be used. `folder` is the one that
    `prepare` wrote into."""
    from trainers.encoders import classifier, json_fields

    if candidate.kind == "classical":
        return classical_answers(plan, files, seed)
    train = examples(files, plan.train_sha256)
    holdout = examples(files, plan.holdout_sha256)
    classify = json_fields.classify_holdout
    if plan.labels:
        classify = classifier.classify_holdout
    keys = read_keys(folder) or {}
    use = keys[candidate].encoder
    name = plan.encoder
    if use:
        name = use.name
    vectors = folder / VECTORS
    stored = None
    try:
        encoder = load_encoder(name)
        if vectors.exists():
            stored = StoredVectors(encoder, vectors)
        replies = classify(encoder, train, holdout, seed, stored)
    except EncoderError as error:
        return Refusal(str(error))
    vectors.unlink(missing_ok=True)
    return replies


def right_answers(texts: Sequence[str], holdout: Sequence[Example], labels: Sequence[str]) -> list[bool]:
    """Returns for each answer whether it is completely right: every field of JSON, every tool call, or the exact text
    for answers that are otherwise scored by shared words."""
    scoring = scoring_of(holdout, task_of(labels))
    are_right = []
    for row, text in zip(holdout, texts, strict=True):
        if scoring == "f1":
            answer = strip_thoughts(row.answer)
            is_right = exact_match(answer, text) or is_right_call(row.answer, text)
        else:
            is_right = score(scoring, row.answer, text, labels) == 1
        are_right.append(is_right)
    return are_right


def judge_comparison(
    plan: ComparisonPlan,
    replies: Mapping[Candidate, Sequence[Reply]],
    files: Path,
    folder: Path,
    now: float,
    verdicts: Mapping[Candidate, Sequence[float]] | None = None,
) -> Comparison:
    """Scores the replies to the questions in `folder`. `now` is in unix seconds; `verdicts` are a judge's scores of
    each answer, from 0 to 1."""
    from trainers.evaluation.comparison import build_comparison

    keys = read_keys(folder) or {}
    judged = build_comparison(
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
        floor=plan.floor,
    )
    candidates = []
    for candidate in judged.candidates:
        its = keys.get(candidate.identity)
        retrieval = None
        if its is not None:
            retrieval = its.retrieval
        candidates.append(replace(candidate, retrieval=retrieval))
    identities = [candidate.identity for candidate in candidates]
    # One encoder was chosen for all candidates that need one.
    uses = [its.encoder for candidate, its in keys.items() if candidate in identities]
    encoder = next(filter(None, uses), None)
    return replace(
        judged,
        candidates=tuple(candidates),
        weights=_local_weights(identities, encoder),
        encoder=encoder,
        is_bar_set=plan.is_bar_set,
    )


def _local_weights(candidates: Sequence[Candidate], encoder: EncoderUse | None) -> tuple[str, ...]:
    """Returns 'name: licence' for each model whose weights are on this machine; hosted models have terms of use
    instead."""
    licences: dict[str, str | None] = {}
    if encoder:
        licences[encoder.name] = find_encoder(encoder.name).licence
    for candidate in candidates:
        provider, _, name = (candidate.model or "").partition("/")
        if provider != "local":
            continue
        preset = find_preset(name)
        licences[name] = preset.licence if preset else None
    weights = []
    for name in sorted(licences):
        licence = licences[name] or "not stated"
        weights.append(f"{name}: {licence}")
    return tuple(weights)


def judge_curve(plan: CurvePlan, files: Path, folder: Path, seed: int) -> JudgedCurve:
    from bot.charts import curves as drawing

    curve = classical_curve_of(plan, files, seed)
    folder.mkdir(parents=True, exist_ok=True)
    plot = drawing.draw_learning_curve(curve, folder / "curve.png")
    return JudgedCurve(curve, plot)


def classical_curve_of(plan: CurvePlan, files: Path, seed: int) -> Curve:
    from trainers.evaluation.learning_curves import classical_curve

    return classical_curve(
        examples(files, plan.train_sha256),
        examples(files, plan.holdout_sha256),
        seed,
        plan.predict,
        dataset=plan.dataset,
        version=plan.version,
        holdout_sha256=plan.holdout_sha256,
    )


def _candidate_keys(
    candidate: Candidate,
    plan: ComparisonPlan,
    messages: Sequence[tuple[Message, ...]] | None,
    tools: Sequence[str],
    seed: int,
) -> CandidateKeys:
    """Returns one candidate's keys. `tools` are the tools that each held-out row offers."""
    if messages is None or candidate.model is None:
        return _free_keys(candidate, plan, len(tools), seed)
    _, own_name = candidate.model.split("/", 1)
    encoding = encoding_of(own_name)
    more = 1 + ASSUMED_SHARE * encoding.assumed
    in_texts = count_prompts(messages, encoding)
    in_tools = _count_beside(messages, tools, encoding)
    tokens = []
    for count, beside in zip(in_texts, in_tools, strict=True):
        # Rounded up, because the most that people agree to pay is computed from it.
        tokens.append(int((count + beside) * more) + 1)
    cap = plan_max_tokens(plan) + plan.room(candidate.model)
    answer_keys = []
    for prompt, offer in zip(messages, tools, strict=True):
        answer_keys.append(key_of(candidate.model, prompt, cap, offer, plan.asked_on))
    work = _work(candidate.model, messages, tokens, cap)
    return CandidateKeys(tuple(answer_keys), tuple(tokens), work)


def _free_keys(candidate: Candidate, plan: ComparisonPlan, rows: int, seed: int) -> CandidateKeys:
    """Returns the keys of a candidate that asks no model: its questions have no tokens and take no work."""
    if candidate.kind == "encoder":
        keys = _encoder_keys(plan, rows, seed)
    else:
        kind = "classical"
        if plan.has_objects:
            kind = "classical by field or copied"
        keys = classical_keys(plan.train_sha256, plan.holdout_sha256, rows, seed, kind)
    return CandidateKeys(keys, (0,) * rows, work=0.0)


def _count_beside(
    messages: Sequence[tuple[Message, ...]], tools: Sequence[str], encoding: Encoding
) -> list[int]:
    """Returns for each question the tokens that are not in its texts: the tools, and earlier tool calls."""
    beside = []
    for prompt, offer in zip(messages, tools, strict=True):
        calls = "".join(turn.extra for turn in prompt)
        beside.append(offer + calls)
    if not any(beside):
        return [0] * len(beside)
    return count_texts(beside, encoding)


def _work(model: str, messages: Sequence[tuple[Message, ...]], tokens: Sequence[int], cap: int) -> float:
    """Returns how long our own model takes for an answer, in tokens that it reads; writing one takes as long as reading
    two. The beginning that all prompts share is read only once. A vendor answers long prompts as fast as short ones."""
    if not model.startswith("local/"):
        return VENDORS_WORK
    texts = ["\n".join(message.content for message in prompt) for prompt in messages]
    letters = sum(map(len, texts))
    # What the first and the last one in order share, all texts between them share too.
    shared = _count_shared_letters(min(texts), max(texts))
    own_letters = letters - shared * len(texts)
    own_tokens = sum(tokens) * own_letters / max(letters, 1)
    return own_tokens / len(texts) + 2 * cap


def _count_shared_letters(first: str, last: str) -> int:
    """Returns how many letters two texts have in common at the beginning; `first` is the first in order."""
    # Not strict: one text may be the beginning of the other.
    for number, (letter, other) in enumerate(zip(first, last, strict=False)):
        if letter != other:
            return number
    return len(first)


@lru_cache(maxsize=16)
def classical_keys(
    train_sha256: str, holdout_sha256: str, rows: int, seed: int, kind: str = "classical"
) -> tuple[str, ...]:
    """Returns the keys of the classical candidate's answers, which need no model."""
    texts = [json.dumps([kind, train_sha256, holdout_sha256, row, seed]) for row in range(rows)]
    return tuple(hashlib.sha256(text.encode()).hexdigest() for text in texts)


def _encoder_keys(plan: ComparisonPlan, rows: int, seed: int) -> tuple[str, ...]:
    """Returns the keys of the encoder's answers. An encoder that can't be found still gets keys, from its name: the
    reason is reported when it is asked to answer."""
    try:
        name = find_encoder(plan.encoder).sha256
    except EncoderError:
        name = plan.encoder
    kind = "encoder and words"
    if plan.has_objects:
        kind = "encoder by field"
    files = (plan.train_sha256, plan.holdout_sha256)
    texts = [json.dumps([kind, name, *files, row, seed]) for row in range(rows)]
    return tuple(hashlib.sha256(text.encode()).hexdigest() for text in texts)


def _with_keys(
    plan: ComparisonPlan, messages_of: Mapping[Candidate, Sequence[tuple[Message, ...]]], tools: Sequence[str]
) -> Iterable[tuple[str, str, tuple[Message, ...], str]]:
    for candidate, messages in messages_of.items():
        model = str(candidate.model)
        cap = plan_max_tokens(plan) + plan.room(model)
        for prompt, offer in zip(messages, tools, strict=True):
            key = key_of(model, prompt, cap, offer, plan.asked_on)
            yield key, model, prompt, offer


def write_prompts(path: Path, questions: Iterable[tuple[str, str, tuple[Message, ...], str]]) -> None:
    """Writes questions, each as (key of its answer, 'provider/model', messages, tools)."""
    replace_lines(path, map(_question_line, questions))


def _question_line(question: tuple[str, str, tuple[Message, ...], str]) -> str:
    key, model, messages, tools = question
    turns = [[message.role, message.content, message.extra] for message in messages]
    return json.dumps([key, model, turns, tools])


def replace_lines(path: Path, lines: Iterable[str]) -> None:
    """Replaces the file's content atomically."""
    # Two workers may write the same file, so each writes one of its own first.
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    partial.replace(path)
