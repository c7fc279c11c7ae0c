"""A model as judge of free text: writes its questions, and turns its answers into scores. Runs in worker processes and
in the terminal; asks no model.

First each answer is judged alone: is it acceptable, given the right answer in the data? Then the answers of the two
best candidates are compared, in both orders.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bot.cards.common.judge_agreement import unreadable_text
from bot.llm_client import key_of
from bot.rules import judge_agreement
from bot.rules.budgets import max_judge_micros
from bot.services.datasets.dataset_worker import examples
from bot.services.evidence import evaluation_worker
from bot.services.evidence.evaluation_worker import (
    ASSUMED_SHARE,
    MAX_TOKENS_VERDICT,
    CandidateKeys,
    max_tokens,
)
from bot.values.evaluations import ComparisonPlan, JudgedPair, JudgeProgress
from trainers.dataset import Example
from trainers.evaluation import prompts
from trainers.evaluation.results import Candidate, Comparison, MeasuredCandidate, Reply
from trainers.evaluation.scores import Choice, consolidate, is_right_call, read_calls, read_choice, read_yes
from trainers.json_values import JsonValue, from_object, to_object
from trainers.models.tokens import count_prompts, encoding_of
from trainers.types import Message

MAX_TOKENS = MAX_TOKENS_VERDICT  # a verdict is one word, with some politeness around it
# The files of the two kinds of questions.
ACCEPTABLE = "acceptable"
BETTER = "better"
FOR_PEOPLE = "pairs.json"
MOST_PAIRS = 30
ANSWERS_FOR_PEOPLE = "answers.json"
BLOCK = 10  # answers that people judge before they rest; half of each block is from either side if there are enough
FREE_TEXT = ("f1", "judge")

Texts = Mapping[Candidate, Sequence[str]]
Prompt = tuple[Message, ...]
# Of a candidate's rows, in the order of the holdout; None where the answer is obvious and the judge is not asked.
Prompts = Sequence[Prompt | None]
Keys = tuple[str | None, ...]


@dataclass(frozen=True)
class Questions:
    """The keys of the judge's questions in the order of the holdout, for each candidate, or for both orders of a
    `pair`. A key is None if the answer is obvious: an empty answer is not acceptable, and two equal answers are a tie.

    `priced` are the distinct questions with their tokens.
    """

    keys: Mapping[Candidate, Keys]
    priced: CandidateKeys

    @property
    def pair(self) -> tuple[Candidate, Candidate] | None:
        if len(self.keys) != 2:
            return None
        first, second = self.keys
        return first, second

    @property
    def key_set(self) -> frozenset[str]:
        return frozenset(self.priced.keys)


@dataclass(frozen=True)
class JudgeAnswers:
    """The answers of the judge `model`: `texts` by the keys of its questions. `failed` says why it can't be asked at
    all, `unpaired` why the best two candidates were not compared."""

    model: str
    texts: Mapping[str, str]
    acceptable: Questions | None
    better: Questions | None
    failed: str | None = None
    unpaired: str | None = None


@dataclass(frozen=True)
class Conclusion:
    """The scored comparison, and the outcome of its judge, None without one."""

    comparison: Comparison
    judge: JudgeProgress | None = None


@dataclass(frozen=True)
class AnswerForPeople:
    """An answer that the judge has judged, and its verdict, which people don't see. `key` is a hash of the question,
    the right answer and this one, so that an answer is judged once however often it is measured."""

    key: str
    question: str
    expected: str
    answer: str
    judged: Literal["yes", "no"]


@dataclass(frozen=True)
class AnswersForPeople(JsonValue):
    answers: tuple[AnswerForPeople, ...]


@dataclass(frozen=True)
class PairForPeople:
    """Two candidates' answers to one row, the better candidate's first; people see them in random order."""

    row: int
    question: str
    first: str
    second: str


@dataclass(frozen=True)
class PairsForPeople(JsonValue):
    first_candidate: Candidate
    second_candidate: Candidate
    rows: tuple[PairForPeople, ...]


def longest_questions(plan: ComparisonPlan, files: Path) -> CandidateKeys:
    """Returns the sizes of all questions in the worst case, before any answer is known: every answer is as long as the
    cap allows, and no two are equal. The keys are placeholders."""
    rows = examples(files, plan.holdout_sha256)
    longest = max_tokens((), plan.longest_answer, plan.scoring)
    candidates = len(plan.candidates)
    if plan.search is not None:
        candidates += 1  # the optimised prompt that it may find

    without_answers = [prompts.acceptable_prompt(row, "") for row in rows]
    of_each = _count_tokens(plan, without_answers, more=longest)
    tokens = list(of_each) * candidates
    if candidates > 1:
        without_answers = [prompts.better_prompt(row, "", "") for row in rows]
        of_pairs = _count_tokens(plan, without_answers, more=2 * longest)
        tokens += [*of_pairs, *of_pairs]  # in both orders

    keys = tuple(f"verdict {number}" for number in range(len(tokens)))
    return CandidateKeys(keys, tuple(tokens))


def candidate_of(plan: ComparisonPlan) -> Candidate:
    """Returns the judge as a candidate of the evaluation engine, asked without examples."""
    return Candidate("zero", plan.judge)


def max_micros(plan: ComparisonPlan, priced: CandidateKeys, answered: Collection[str]) -> int:
    """Returns the maximum cost in micro-dollars of the questions whose keys are not in `answered`, with thinking before
    each verdict."""
    price = plan.price_of[str(plan.judge)]
    return max_judge_micros(price, priced, answered, _max_tokens(plan))


def _max_tokens(plan: ComparisonPlan) -> int:
    return MAX_TOKENS + plan.room(str(plan.judge))


def write_acceptable_questions(plan: ComparisonPlan, texts: Texts, files: Path, folder: Path) -> Questions:
    """Writes a question about each answer that isn't empty into `folder`. Tool calls need no judge: they are compared
    with the right ones."""
    holdout = examples(files, plan.holdout_sha256)
    prompts_of: dict[Candidate, Prompts] = {}
    for candidate, answers in texts.items():
        of_candidate = []
        for row, text in zip(holdout, answers, strict=True):
            of_candidate.append(_acceptable_prompt(row, text))
        prompts_of[candidate] = of_candidate
    return _write_questions(folder, ACCEPTABLE, plan, prompts_of)


def _acceptable_prompt(row: Example, text: str) -> Prompt | None:
    is_empty = not text.strip()
    is_about_call = read_calls(row.answer) is not None
    if is_empty or is_about_call:
        return None
    return prompts.acceptable_prompt(row, text)


def write_better_questions(
    plan: ComparisonPlan, texts: Texts, from_judge: JudgeAnswers, files: Path, folder: Path
) -> Questions:
    """Writes a question about each row's pair of answers of the two candidates with the most acceptable ones, in both
    orders. Writes none if the verdicts so far don't count."""
    holdout = examples(files, plan.holdout_sha256)
    values, judged = _score_answers(texts, from_judge, holdout)
    by_score = sorted(values, key=lambda candidate: -sum(values[candidate]))
    if judged.failed or len(by_score) < 2:
        return _write_questions(folder, BETTER, plan, {})
    first, second = by_score[:2]
    in_order: list[Prompt | None] = []
    swapped: list[Prompt | None] = []
    answers = zip(holdout, texts[first], texts[second], strict=True)
    for row, first_text, second_text in answers:
        if _obvious_choice(row, first_text, second_text) is None:
            in_order.append(prompts.better_prompt(row, first_text, second_text))
            swapped.append(prompts.better_prompt(row, second_text, first_text))
        else:
            in_order.append(None)
            swapped.append(None)
    return _write_questions(folder, BETTER, plan, {first: in_order, second: swapped})


def read_questions(folder: Path, name: str) -> Questions | None:
    """Returns the questions that were written, None if they are not all written yet."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    raw = json.loads(path.read_text(encoding="utf-8"))
    keys = {}
    for line in raw["keys"]:
        # The former word for a candidate, kept so that files of older versions can be read.
        candidate = from_object(Candidate, line["arm"])
        keys[candidate] = tuple(line["keys"])
    distinct_keys, tokens = map(tuple, raw["priced"])
    return Questions(keys, CandidateKeys(distinct_keys, tokens))


def conclude(
    plan: ComparisonPlan,
    replies: Mapping[Candidate, Sequence[Reply]],
    from_judge: JudgeAnswers | None,
    files: Path,
    folder: Path,
    now: float,
) -> Conclusion:
    """Returns the comparison, scored by the judge's verdicts if they count. For free text, also writes answers for
    people to judge into `folder`, or without a judge pairs of answers to compare. `now` is in unix seconds."""
    texts = {}
    for candidate, its_replies in replies.items():
        texts[candidate] = [reply.text for reply in its_replies]
    rows = examples(files, plan.holdout_sha256)
    verdicts: Mapping[Candidate, Sequence[float]] | None = None
    judged: JudgeProgress | None = None
    if from_judge:
        verdicts, judged = verdicts_of(texts, from_judge, rows)
    comparison = evaluation_worker.judge_comparison(plan, replies, files, folder, now, verdicts)
    if from_judge and verdicts is not None:
        write_answers(folder, texts, from_judge, rows)
    else:
        write_pairs(folder, plan, comparison, texts, files)
    return Conclusion(comparison, judged)


def verdicts_of(
    texts: Texts, from_judge: JudgeAnswers, rows: Sequence[Example]
) -> tuple[Mapping[Candidate, Sequence[float]] | None, JudgeProgress]:
    """Returns a verdict from 0 to 1 on each answer, None if the verdicts don't count, and the outcome of the judge."""
    values, judged = _score_answers(texts, from_judge, rows)
    if judged.failed:
        return None, judged
    pair = _compare_best(texts, from_judge, rows)
    return values, replace(judged, pair=pair, unpaired=from_judge.unpaired)


def write_answers(folder: Path, texts: Texts, from_judge: JudgeAnswers, rows: Sequence[Example]) -> None:
    """Writes answers of all candidates for people to judge, half of them accepted by the judge if there are enough.
    They are drawn by a hash, so the same way each time, and their order says nothing about the verdicts."""
    questions = from_judge.acceptable
    if questions is None:
        return
    by_key: dict[str, AnswerForPeople] = {}
    for candidate, answers in texts.items():
        keys = questions.keys[candidate]
        for row, text, key in zip(rows, answers, keys, strict=True):
            accepts = _read_verdict(from_judge, key)
            if accepts is not None:
                answer = _answer_for_people(row, text, accepts=accepts)
                # Candidates may give the same answer, about which people are asked once.
                by_key[answer.key] = answer
    drawn = [by_key[key] for key in sorted(by_key)]
    shown = AnswersForPeople(tuple(_mix_verdicts(drawn)))
    evaluation_worker.replace_lines(folder / ANSWERS_FOR_PEOPLE, [shown.to_json()])


def _read_verdict(from_judge: JudgeAnswers, key: str | None) -> bool | None:
    """Returns whether the judge accepts an answer, None if it was not asked about it or said nothing readable."""
    if key is None:
        return None
    return read_yes(from_judge.texts.get(key, ""))


def _mix_verdicts(drawn: Sequence[AnswerForPeople]) -> list[AnswerForPeople]:
    """Returns the answers block by block, each block with as many accepted as rejected ones as long as there are both:
    people may stop after any block."""
    accepted = [answer for answer in drawn if answer.judged == "yes"]
    rejected = [answer for answer in drawn if answer.judged == "no"]
    shown: list[AnswerForPeople] = []
    while (accepted or rejected) and len(shown) < judge_agreement.MOST_CHECKED:
        # More than half are rejected ones only if too few accepted ones are left to fill the block.
        most_rejected = max(BLOCK // 2, BLOCK - len(accepted))
        block = rejected[:most_rejected]
        del rejected[:most_rejected]
        room = BLOCK - len(block)
        block += accepted[:room]
        del accepted[:room]
        # By the hash, so that the order doesn't tell which ones the judge rejected.
        shown += sorted(block, key=lambda answer: answer.key)
    return shown


def _answer_for_people(row: Example, text: str, *, accepts: bool) -> AnswerForPeople:
    question = prompts.question_of(row)
    joined = "\0".join((question, row.answer, text))
    # People may paste half of a surrogate pair, which plain UTF-8 refuses.
    encoded = joined.encode("utf-8", "surrogatepass")
    judged: Literal["yes", "no"] = "no"
    if accepts:
        judged = "yes"
    return AnswerForPeople(
        key=hashlib.sha256(encoded).hexdigest(),
        question=question,
        expected=row.answer,
        answer=text,
        judged=judged,
    )


def read_answers(folder: Path) -> tuple[AnswerForPeople, ...]:
    """Returns the answers for people to judge; none if there was no judge, or the folder was lost."""
    path = folder / ANSWERS_FOR_PEOPLE
    if not path.exists():
        return ()
    text = path.read_text(encoding="utf-8")
    return AnswersForPeople.from_json(text).answers


def write_pairs(
    folder: Path, plan: ComparisonPlan, comparison: Comparison, texts: Texts, files: Path
) -> None:
    """Writes rows on which the two best candidates' answers differ. They are drawn at random, but the same way each
    time."""
    best = best_two(comparison.candidates)
    if len(best) < 2:
        return
    better, other = best
    if better.scoring not in FREE_TEXT:
        return
    first = better.identity
    second = other.identity
    rows = examples(files, plan.holdout_sha256)
    pairs = []
    answers = zip(rows, texts[first], texts[second], strict=True)
    for number, (row, first_text, second_text) in enumerate(answers):
        if _obvious_choice(row, first_text, second_text) is None:
            question = prompts.question_of(row)
            pairs.append(PairForPeople(number, question, first_text, second_text))
    pairs.sort(key=lambda pair: _row_hash(plan, pair.row))
    shown = PairsForPeople(first, second, tuple(pairs[:MOST_PAIRS]))
    evaluation_worker.replace_lines(folder / FOR_PEOPLE, [shown.to_json()])


def best_two(candidates: Sequence[MeasuredCandidate]) -> Sequence[MeasuredCandidate]:
    """Returns the two candidates with the highest scores, whose answers people compare if no judge has compared two."""
    # Not `find_best`, which is about later looks: these are the candidates of one measurement.
    return sorted(candidates, key=lambda candidate: -candidate.score)[:2]


def read_for_people(folder: Path) -> PairsForPeople | None:
    path = folder / FOR_PEOPLE
    if not path.exists():
        return None
    return PairsForPeople.from_json(path.read_text(encoding="utf-8"))


def _score_answers(
    texts: Texts, from_judge: JudgeAnswers, rows: Sequence[Example]
) -> tuple[dict[Candidate, list[float]], JudgeProgress]:
    """Returns a value for each answer: 1 if it is acceptable, 0 if it is not or has no readable verdict. The progress
    says why the verdicts don't count if too many are missing."""
    if from_judge.failed or from_judge.acceptable is None:
        return {}, JudgeProgress(failed=from_judge.failed or "It was never asked.")
    values: dict[Candidate, list[float]] = {}
    judged = 0
    unread = 0
    doubt = None
    for candidate, answers in texts.items():
        keys = from_judge.acceptable.keys[candidate]
        verdicts = [_read_verdict(from_judge, key) for key in keys]
        values[candidate] = []
        for row, text, verdict in zip(rows, answers, verdicts, strict=True):
            # Tool calls were not shown to the judge.
            is_right = bool(verdict) or is_right_call(row.answer, text)
            values[candidate].append(float(is_right))
        questions = sum(key is not None for key in keys)
        missing = questions - sum(verdict is not None for verdict in verdicts)
        judged += questions
        unread += missing
        if doubt is None and judge_agreement.is_unreadable(missing, questions):
            doubt = unreadable_text(from_judge.model, missing, questions)
    return values, JudgeProgress(failed=doubt, judged=judged, unread=unread)


def _compare_best(texts: Texts, from_judge: JudgeAnswers, rows: Sequence[Example]) -> JudgedPair | None:
    questions = from_judge.better
    if questions is None or questions.pair is None or from_judge.unpaired:
        return None
    first, second = questions.pair
    choices: list[Choice | None] = []
    answers = zip(
        rows,
        texts[first],
        texts[second],
        questions.keys[first],
        questions.keys[second],
        strict=True,
    )
    for row, first_text, second_text, key, swapped_key in answers:
        choice = _obvious_choice(row, first_text, second_text)
        if choice is None:
            in_order = _read_choice(from_judge, key)
            swapped = _read_choice(from_judge, swapped_key)
            choice = consolidate(in_order, swapped)
        choices.append(choice)
    return JudgedPair(first, second, tuple(choices))


def _read_choice(from_judge: JudgeAnswers, key: str | None) -> Choice | None:
    if key is None:
        return None
    return read_choice(from_judge.texts.get(key, ""))


def _obvious_choice(row: Example, first: str, second: str) -> Choice | None:
    """Returns the better of two answers if no judge is needed: for tool calls, equal answers and empty ones."""
    if read_calls(row.answer) is not None:
        is_first_good = is_right_call(row.answer, first)
        is_second_good = is_right_call(row.answer, second)
    elif first.strip() == second.strip():
        return "tie"
    else:
        is_first_good = bool(first.strip())
        is_second_good = bool(second.strip())
        if is_first_good and is_second_good:
            return None  # two different texts: the judge has to read them

    if is_first_good == is_second_good:
        return "tie"
    if is_first_good:
        return "first"
    return "second"


def _row_hash(plan: ComparisonPlan, row: int) -> str:
    text = f"{plan.holdout_sha256} {row}"
    return hashlib.sha256(text.encode()).hexdigest()


def _write_questions(
    folder: Path,
    name: str,
    plan: ComparisonPlan,
    questions_by_candidate: Mapping[Candidate, Prompts],
) -> Questions:
    """Writes the questions. The same answers give the same questions; one that two candidates share is asked only
    once."""
    judge = str(plan.judge)
    most = _max_tokens(plan)
    keys: dict[Candidate, Keys] = {}
    prompt_by_key: dict[str, Prompt] = {}
    for candidate, its_prompts in questions_by_candidate.items():
        its_keys: list[str | None] = []
        for prompt in its_prompts:
            key = None
            if prompt:
                key = key_of(judge, prompt, most)
                prompt_by_key[key] = prompt
            its_keys.append(key)
        keys[candidate] = tuple(its_keys)
    tokens = _count_tokens(plan, list(prompt_by_key.values()), more=0)
    priced = CandidateKeys(tuple(prompt_by_key), tokens)

    folder.mkdir(parents=True, exist_ok=True)
    questions = ((key, judge, prompt, "") for key, prompt in prompt_by_key.items())
    evaluation_worker.write_prompts(folder / f"{name}.jsonl", questions)
    named = []
    for candidate, of_candidate in keys.items():
        named.append({"arm": to_object(candidate), "keys": of_candidate})
    record = {"keys": named, "priced": [priced.keys, priced.tokens]}
    # Last: its presence means that all is written.
    path = folder / f"{name}.json"
    evaluation_worker.replace_lines(path, [json.dumps(record)])
    return Questions(keys, priced)


def _count_tokens(plan: ComparisonPlan, messages: Sequence[Prompt], more: int) -> tuple[int, ...]:
    """Returns each prompt's tokens, including `more` tokens of answers; rounded up if the judge's tokenizer is
    unknown."""
    _, _, model = str(plan.judge).partition("/")
    encoding = encoding_of(model)
    factor = 1 + ASSUMED_SHARE * encoding.assumed
    counts = count_prompts(messages, encoding)
    # Rounded up, because the most that people agree to pay is computed from it.
    return tuple(int((count + more) * factor) + 1 for count in counts)
