"""Has a model judge free text. Its questions go through the evaluation engine, like the candidates'.

The judge is asked first whether each answer is acceptable, then which of the best two candidates' answers is better, in
both orders. If it can't be asked, or would cost more than was agreed, the answers are scored without a judge.

A run's judge, which compares the tuned model with its base, is the same: same questions and engine. It may also not be
allowed to read the rows, or cost more than the plan allows; the result then says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bot.context import AppContext
from bot.rules.plans import Plan
from bot.services.datasets import data_policy
from bot.services.datasets.data_policy import Forbidden
from bot.services.evidence import evaluation_worker, judge_worker, notifications
from bot.services.evidence.evaluation_worker import CandidateKeys
from bot.services.evidence.judge_worker import ACCEPTABLE, BETTER, JudgeAnswers, Questions
from bot.services.measurement import evaluation_engine, receivers
from bot.services.measurement.evaluation_engine import Answers, EngineContext, Evaluation
from bot.services.measurement.evaluation_progress import ComparisonStep
from bot.values.evaluations import CandidateProgress, ComparisonPlan, JudgeProgress
from bot.values.runs import Progress
from storage.records import Run
from trainers.evaluation.results import Candidate
from trainers.money import usd_micros
from trainers.providers.pricing import PriceList, PriceRow


def judge_maximum(step: ComparisonStep) -> int | None:
    """Returns the judge's maximum cost in micro-dollars, None while a worker computes it. If all answers are stored
    already, the real questions are priced, and those with a stored verdict are free. Otherwise every answer counts as
    long as the cap allows."""
    context = step.context
    plan = step.plan
    # A search, or a choice of the number of examples, brings answers that nobody has stored yet.
    is_final = plan.search is None and not plan.chooses_shots
    is_answered = all(candidate.answered == candidate.of for candidate in step.progress.candidates)
    if is_final and is_answered:
        consultation = _consultation(step, JudgeProgress())
        if consultation is None:
            return None
        questions = _open_questions(context, consultation)
        if questions is None:
            return None
        if len(questions) == 2:
            priced = questions[1].priced
            answered = context.store.answers.answered(priced.keys)
            return judge_worker.max_micros(plan, priced, answered)
    # Answers that don't exist yet count as long as an answer may be.
    worst: CandidateKeys | None = context.workers.poll(
        f"verdicts {step.owner}", judge_worker.longest_questions, plan, context.settings.files
    )
    if worst is None:
        return None
    return judge_worker.max_micros(plan, worst, ())


def take_step(step: ComparisonStep) -> None:
    """Asks the judge the questions without an answer; once there are none, the comparison can be judged."""
    context = step.context
    plan = step.plan
    progress = step.progress

    consultation = _consultation(step, progress.judge or JudgeProgress())
    if consultation is None:
        return
    consulted = consult(context, consultation)
    if consulted is None:
        return
    spent = step.spent_micros()
    problem = consulted.answers.failed or cost_problem(plan, consulted, spent, progress.most_micros)
    egress_problem = None
    note = None
    # Without a question left to send, today's rules about data can't forbid anything.
    if consulted.answers.all_missing:
        egress_problem = receivers.egress_refusal(context, step.measurement)
        note = evaluation_engine.waiting_note(context, [str(plan.judge)])
    if isinstance(egress_problem, Forbidden):
        problem = egress_problem.reason

    answered = [candidate for candidate in progress.candidates if candidate.failed is None]
    judge = count_progress(consulted, plan, has_pair=len(answered) > 1)
    updated = replace(progress, judge=judge, spent_micros=spent, note=note)
    if problem:
        judge = _with_problem(judge, consulted, problem)
        spent = step.with_progress(updated).stop()
        ended = replace(updated, stage="judging", judge=judge, spent_micros=spent, note=None)
        step.with_progress(ended).save()
    elif consulted.is_complete:
        step.with_progress(replace(updated, stage="judging")).save()
    else:
        step.with_progress(updated).save()
        if egress_problem is None:
            consulted.ask(context)


def _with_problem(judge: JudgeProgress, consulted: ConsultationProgress, problem: str) -> JudgeProgress:
    """Without the verdicts on single answers nothing counts; later only the choice between the best two is lost."""
    if consulted.is_first:
        return replace(judge, failed=problem)
    return replace(judge, unpaired=problem)


@dataclass(frozen=True)
class Consultation:
    """What a judge has to judge: the answers of the `candidates`, stored under `keys`. `owner` is 'm3' or 'run 3'. The
    judge's questions are written into `folder`. `judge` is its progress so far."""

    owner: str
    plan: ComparisonPlan
    folder: Path
    keys: Mapping[Candidate, Sequence[str]]
    candidates: Sequence[CandidateProgress]
    judge: JudgeProgress


@dataclass(frozen=True)
class ConsultationProgress:
    """How far the judge is. `questions` has the questions about single answers and, once those are answered, the
    ones about pairs of answers of the best two candidates."""

    judge: JudgeProgress
    questions: Sequence[Questions]
    evaluation: Evaluation
    answers: Answers

    @property
    def is_first(self) -> bool:
        """True while single answers are judged."""
        return len(self.questions) == 1

    @property
    def is_complete(self) -> bool:
        return not self.answers.all_missing and not self.is_first

    def ask(self, context: EngineContext) -> None:
        evaluation_engine.ask(context, self.evaluation, self.answers.unasked)


def consult(context: AppContext, consultation: Consultation) -> ConsultationProgress | None:
    """Counts the judge's answers. Returns None while a worker writes its questions."""
    plan = consultation.plan
    judge = consultation.judge
    questions = _open_questions(context, consultation)
    if questions is None:
        return None
    name = BETTER
    if len(questions) == 1:
        name = ACCEPTABLE
    prompts = consultation.folder / f"{name}.jsonl"
    evaluation = evaluation_of(consultation.owner, plan, questions[-1], prompts)
    wanted = questions[-1].key_set
    declined = tuple(key for key in judge.declined if key in wanted)
    before = CandidateProgress(judge_worker.candidate_of(plan), len(wanted), declined=declined)
    answers = evaluation_engine.collect(context, evaluation, [before])
    (candidate,) = answers.candidates
    all_declined = dict.fromkeys((*judge.declined, *candidate.declined))
    judge = replace(
        judge, answered=candidate.answered + len(candidate.declined), declined=tuple(all_declined)
    )
    return ConsultationProgress(judge, questions, evaluation, answers)


def spent_micros(context: EngineContext, plan: ComparisonPlan, folder: Path, since: float) -> int:
    """Returns the cost in micro-dollars of the judge's answers that arrived `since` then."""
    judge = judge_worker.candidate_of(plan)
    keys: set[str] = set()
    for name in (ACCEPTABLE, BETTER):
        questions = judge_worker.read_questions(folder, name)
        if questions:
            keys.update(questions.priced.keys)
    return evaluation_engine.spent_micros(context, plan.price_of, {judge: sorted(keys)}, since)


def cost_problem(plan: ComparisonPlan, consulted: ConsultationProgress, spent: int, most: int) -> str | None:
    """Returns a sentence if the judge could cost more than `most` micro-dollars, of which `spent` are spent, else None.
    It can happen despite the agreed maximum, because answers may have more tokens by the judge's tokenizer than by
    their model's."""
    missing = consulted.answers.all_missing
    if not missing:
        return None
    questions = consulted.questions[-1]
    answered = questions.key_set - missing
    if spent + judge_worker.max_micros(plan, questions.priced, answered) <= most:
        return None
    return f"Asking {plan.judge} could cost more than was agreed ({usd_micros(most)})."


def evaluation_of(owner: str, plan: ComparisonPlan, questions: Questions, prompts: Path) -> Evaluation:
    """Returns the evaluation of these questions, whose prompts are in the file `prompts`."""
    priced = questions.priced
    tokens = dict(zip(priced.keys, priced.tokens, strict=True))
    read = partial(
        evaluation_worker.read_questions_file,
        prompts,
        plan,
        longest=judge_worker.MAX_TOKENS,
        tokens=tokens,
    )
    return Evaluation(owner, {judge_worker.candidate_of(plan): sorted(questions.key_set)}, read)


def judge_answers(
    context: EngineContext,
    plan: ComparisonPlan,
    acceptable: Questions | None,
    better: Questions | None,
    judge: JudgeProgress,
) -> JudgeAnswers:
    """Returns all of the judge's answers so far."""
    keys: list[str] = []
    for questions in (acceptable, better):
        if questions:
            keys += questions.priced.keys
    stored = context.store.answers.read(keys)
    texts = {key: answer.text for key, answer in stored.items()}
    return JudgeAnswers(str(plan.judge), texts, acceptable, better, judge.failed, judge.unpaired)


def read_judge_answers(
    context: EngineContext, plan: ComparisonPlan, folder: Path, judge: JudgeProgress
) -> JudgeAnswers:
    """Returns the same as `judge_answers`, for the questions in `folder`."""
    acceptable = judge_worker.read_questions(folder, ACCEPTABLE)
    better = judge_worker.read_questions(folder, BETTER)
    return judge_answers(context, plan, acceptable, better, judge)


def _consultation(step: ComparisonStep, judge: JudgeProgress) -> Consultation | None:
    """Returns None while a worker writes the candidates' questions."""
    keys = step.load_keys()
    if keys is None:
        return None
    answer_keys = evaluation_worker.keys_by_candidate(keys)
    return Consultation(step.owner, step.plan, step.folder, answer_keys, step.progress.candidates, judge)


def _open_questions(context: AppContext, consultation: Consultation) -> Sequence[Questions] | None:
    """Returns the judge's questions so far: those about single answers and, once all of them are answered or declined,
    those about pairs. Returns None while a worker writes them."""
    plan = consultation.plan
    folder = consultation.folder
    judge = consultation.judge

    def read_or_write(name: str, write: Callable[..., Questions]) -> Questions | None:
        work = f"{name} {consultation.owner}"
        if not context.workers.has(work):  # what a worker is still writing is not read
            questions = judge_worker.read_questions(folder, name)
            if questions:
                return questions
        replies_by_candidate = evaluation_engine.replies(context, consultation.keys, consultation.candidates)
        texts = {
            candidate: [reply.text for reply in replies]
            for candidate, replies in replies_by_candidate.items()
        }
        verdicts = []
        if name == BETTER:  # the best two are chosen by the verdicts on single answers
            verdicts.append(read_judge_answers(context, plan, folder, judge))
        return context.workers.poll(work, write, plan, texts, *verdicts, context.settings.files, folder)

    first = read_or_write(ACCEPTABLE, judge_worker.write_acceptable_questions)
    if first is None:
        return None
    answered = context.store.answers.answered(first.priced.keys)
    if first.key_set - answered - set(judge.declined):
        return [first]
    second = read_or_write(BETTER, judge_worker.write_better_questions)
    if second is None:
        return None
    return [first, second]


def count_progress(consulted: ConsultationProgress, plan: ComparisonPlan, *, has_pair: bool) -> JudgeProgress:
    """Returns the judge's progress. `has_pair` is True if two candidates will be compared; how many questions that
    takes is at first only known as a maximum."""
    judge = consulted.judge
    single = len(consulted.questions[0].key_set)
    if consulted.is_first:
        pairs = 0
        if has_pair:
            pairs = 2 * plan.n_holdout  # each row in both orders
        return replace(judge, of=single + pairs)
    pairs = len(consulted.questions[1].key_set)
    return replace(judge, of=single + pairs, answered=single + judge.answered)


@dataclass(frozen=True)
class ResultStep:
    """A run whose tuned model is being evaluated, at a tick."""

    context: AppContext
    run: Run
    plan: Plan

    @property
    def owner(self) -> str:
        return f"run {self.run.id}"

    @property
    def progress(self) -> Progress:
        return Progress.from_json(self.run.progress)

    @property
    def judge(self) -> JudgeProgress:
        return self.progress.judge or JudgeProgress()

    @property
    def folder(self) -> Path:
        """The folder of the run's plots and of the judge's questions. It is deleted with the dataset."""
        return self.context.settings.data / "plots" / f"run-{self.run.id}"


def take_run_step(
    step: ResultStep, evaluation: Evaluation, candidates: list[CandidateProgress], run_micros: int
) -> bool:
    """Asks the judge the questions without a verdict, once both models have answered. Returns True once nothing is left
    to ask. `run_micros` is the cost of the training and of both models' answers."""
    context = step.context
    run = step.run
    plan = step.plan
    judge = step.judge
    if plan.judge is None:
        return True
    if judge.failed or judge.unpaired:
        return not context.llm.drop(step.owner)  # questions under way will be billed, so wait for them

    comparison_plan = _plan_of_run(step, tuple(evaluation.keys))
    consultation = Consultation(
        step.owner, comparison_plan, step.folder / "judge", evaluation.keys, candidates, judge
    )
    consulted = consult(context, consultation)
    if consulted is None:
        return False
    if consulted.is_complete:
        return True

    provider = plan.judge.partition("/")[0]
    # The rows must be scanned before it is known whether the judge may read them.
    scan_missing = data_policy.unscanned(context, run.dataset_id, [provider])
    so_far = run_micros + spent_on_run(step)
    problem = consulted.answers.failed or cost_problem(
        comparison_plan, consulted, so_far, plan.maximum_micros
    )
    if problem is None and scan_missing is None:
        problem = data_policy.dataset_refusal(context, run.dataset_id, [provider], plan.overridden)

    judge = count_progress(consulted, comparison_plan, has_pair=True)
    note = scan_missing
    if problem:
        judge = _with_problem(judge, consulted, problem)
    elif note is None:
        note = evaluation_engine.waiting_note(context, [plan.judge])
    answers = len(evaluation.all_keys)
    progress = replace(
        step.progress,
        judge=judge,
        evaluated=answers + judge.answered,
        to_evaluate=answers + judge.of,
        note=note,
    )
    _save_run_progress(step, progress)
    if problem is None and scan_missing is None:
        consulted.ask(context)
    return False


def _save_run_progress(step: ResultStep, progress: Progress) -> None:
    if progress == step.progress:
        return
    context = step.context
    now = context.clock()
    with context.store.transaction():
        moved = context.store.runs.move(
            step.run, "evaluating", now=now, progress=progress.to_json(), next_at=now
        )
        if moved:
            notifications.show_progress(context, moved)


def spent_on_run(step: ResultStep) -> int:
    """Returns the judge's cost in micro-dollars."""
    if step.plan.judge is None:
        return 0
    plan = _plan_of_run(step, ())
    return spent_micros(step.context, plan, step.folder / "judge", step.run.state_since)


def answers_about_run(step: ResultStep) -> JudgeAnswers | None:
    """Returns the judge's answers, None if there is no judge."""
    if step.plan.judge is None:
        return None
    folder = step.folder / "judge"
    return read_judge_answers(step.context, _plan_of_run(step, ()), folder, step.judge)


def price_of_judge(plan: Plan) -> PriceRow:
    """Returns the price of the plan's judge, which it must have."""
    rows = PriceList.from_json(plan.prices).rows
    # From the end, where a plan adds its judge: the same model may also be the base model.
    return next(row for row in reversed(rows) if row.model == plan.judge)


def _plan_of_run(step: ResultStep, candidates: tuple[Candidate, ...]) -> ComparisonPlan:
    """Returns the plan that the judge's questions are made from, as if a measurement compared these candidates."""
    plan = step.plan
    judge = str(plan.judge)
    prices = PriceList((price_of_judge(plan),), PriceList.from_json(plan.prices).read_on)
    thinking: tuple[str, ...] = ()
    if step.context.settings.thinks(judge):
        thinking = (judge,)
    return ComparisonPlan(
        dataset=plan.dataset,
        version=plan.dataset_version,
        task="free_text",
        train_sha256=plan.train_sha256,
        holdout_sha256=plan.holdout_sha256,
        n_holdout=plan.n_holdout,
        labels=(),
        candidates=candidates,
        prompt=None,
        bar=0.0,
        documents=(),
        prices=prices.to_json(),
        judge=judge,
        thinking=thinking,
    )
