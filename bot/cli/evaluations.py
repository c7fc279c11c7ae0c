"""Runs the evaluations of `finetune baseline` and `finetune curve`, without Slack; a judge model scores free text.

With `--optimise` or `--shots auto`, a better prompt is searched for, or the number of examples chosen, before anything
is measured. Answers are kept in the terminal's database, so that the same command can resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from getpass import getuser
from pathlib import Path

from bot.cards.common.candidates import LONG_NAMES, answers_name
from bot.cards.common.words import TerminalSpelling, capitalize
from bot.cards.datasets.data_policy import reason_too_short
from bot.cards.evidence.prompt_search import progress_text
from bot.cli.datasets import EvaluationRows
from bot.cli.llm_session import (
    OWNER,
    PATIENCE_S,
    LlmSession,
    ProgressListener,
    open_session,
    wait_for_answers,
)
from bot.cli.options import create_data_folder, utc_today
from bot.cli.output import tell_program
from bot.command_options import ASKED_KINDS
from bot.mcp.reports import Report
from bot.rules.budgets import max_evaluation_micros, spent_micros
from bot.rules.data_policy import needs_waiver
from bot.rules.estimate_inputs import Question
from bot.rules.estimates import EstimateResult
from bot.rules.facts import Evidence
from bot.rules.permissions import has_enough_words
from bot.services.common import candidates
from bot.services.datasets.dataset_worker import SEED
from bot.services.decisions.estimates import make_estimate
from bot.services.evidence import evaluation_worker, judge_worker
from bot.services.evidence.evaluation_worker import CandidateKeys
from bot.services.evidence.judge_worker import JudgeAnswers, Questions, Texts
from bot.services.measurement import evaluation_engine, few_shot, judgements, prompt_search
from bot.services.measurement import prompt_search_worker as worker
from bot.services.measurement.evaluation_engine import Evaluation
from bot.services.measurement.prompt_search import too_few_rows_refusal
from bot.services.measurement.prompt_search_worker import Replay
from bot.settings import Settings
from bot.values.evaluations import CandidateProgress, ComparisonPlan, CurvePlan, JudgeProgress, SearchProgress
from bot.values.requests import Baseline
from bot.values.runs import Refusal
from bot.values.targets import PricedModel
from trainers.dataset import Columns
from trainers.dataset.sensitive_data import SECRET, faults_in, scan_file
from trainers.evaluation.results import (
    DEFAULT_QUALITY_THRESHOLD,
    FREE_KINDS,
    Candidate,
    CandidateKind,
    Comparison,
    Curve,
    Reply,
)
from trainers.money import to_micros, usd, usd_micros


@dataclass(frozen=True)
class EvaluationRequest:
    """What to measure. If `holdout` is None, a part of `file` is set aside, as in Slack. `models` are 'provider/model'.
    The evaluation gives up if no answer comes for `patience_s` seconds, and asks nothing if it could cost more than
    `max_usd`."""

    file: Path
    holdout: Path | None
    text: str | None
    label: str | None
    sheet: str | None = None
    kinds: tuple[CandidateKind, ...] = ()
    models: tuple[str, ...] = ()
    prompt: str | None = None
    bar: float = DEFAULT_QUALITY_THRESHOLD
    is_bar_set: bool = False
    judge: str | None = None
    waive: str | None = None
    patience_s: float = PATIENCE_S
    optimise: Decimal | None = None
    writer: str | None = None
    shots: int | None = None
    max_usd: Decimal | None = None

    @property
    def columns(self) -> Columns:
        return Columns(self.text, self.label, self.sheet)


@dataclass(frozen=True)
class EvaluationResult:
    """What was measured. `candidates` is each candidate's progress. `judge` is None if there was none. `skipped` are
    the requested kinds for which no model is configured. `search` is the search for a better prompt, if there was
    one."""

    plan: ComparisonPlan
    comparison: Comparison
    estimated: EstimateResult
    candidates: tuple[CandidateProgress, ...]
    judge: JudgeProgress | None = None
    skipped: tuple[CandidateKind, ...] = ()
    search: SearchProgress | None = None


@dataclass(frozen=True)
class _Answers:
    """What the candidates answered, in the order of the plan, which has the prompt and the examples that were chosen.
    `verdicts` are the judge's."""

    plan: ComparisonPlan
    candidates: tuple[CandidateProgress, ...]
    replies: Mapping[Candidate, Sequence[Reply]]
    verdicts: JudgeAnswers | None
    search: SearchProgress | None


def evaluate(
    settings: Settings, wanted: EvaluationRequest, rows: EvaluationRows, say: ProgressListener
) -> EvaluationResult | Refusal:
    """Measures the candidates on these rows. `say` receives the progress. Raises AnswerTimeout."""
    own = _needs_own_trainer(wanted)
    create_data_folder(settings.data)
    with open_session(settings, rows.files, say, own=own, patience_s=wanted.patience_s) as session:
        plan = _plan(session, wanted, rows)
        if isinstance(plan, Refusal):
            return plan
        plan, keys = _write_questions(session, plan)
        # Before the examples and the search below, which cost money too.
        refusal = _check_cost(session, plan, keys, wanted.max_usd)
        if refusal:
            return refusal
        with _reported_spending(session, plan):
            answers = _ask(session, plan, keys)
    if isinstance(answers, Refusal):
        return answers
    plan = answers.plan
    # After the session, as this asks no model: our own trainer has stopped.
    conclusion = judge_worker.conclude(
        plan, answers.replies, answers.verdicts, rows.files, session.folder, time.time()
    )
    evidence = Evidence(bar=plan.bar, comparison=conclusion.comparison)
    estimated = make_estimate(
        settings, plan.dataset, rows.report, Question(), utc_today(), evidence, reachable=session.trainers
    )
    if isinstance(estimated, Refusal):
        return estimated
    measured = {candidate.kind for candidate in plan.candidates}
    wanted_kinds = wanted.kinds or ASKED_KINDS
    skipped = tuple(kind for kind in wanted_kinds if kind not in measured and kind not in FREE_KINDS)
    return EvaluationResult(
        plan, conclusion.comparison, estimated, answers.candidates, conclusion.judge, skipped, answers.search
    )


def _ask(
    session: LlmSession, plan: ComparisonPlan, keys: Mapping[Candidate, CandidateKeys]
) -> _Answers | Refusal:
    """Has every candidate and the judge answer. Raises AnswerTimeout."""
    if plan.chooses_shots:
        plan, keys = _write_questions(session, _choose_shots(session, plan))
    searched = _search_prompt(session, plan)
    # Another prompt makes other questions, whose answers are stored by other keys.
    if searched.plan is not plan:
        plan, keys = _write_questions(session, searched.plan)
    free_keys = {candidate: its for candidate, its in keys.items() if candidate.is_free and not its.failed}
    free = [_answer_free(session, plan, candidate, its) for candidate, its in free_keys.items()]
    unread = [
        CandidateProgress(candidate, 0, failed=its.failed) for candidate, its in keys.items() if its.failed
    ]
    model_keys = {
        candidate: its.keys for candidate, its in keys.items() if candidate.model and not its.failed
    }
    evaluation = Evaluation(
        OWNER, model_keys, partial(evaluation_worker.read_questions, session.folder, plan)
    )
    candidates = (*free, *unread, *wait_for_answers(session, evaluation))
    failed = [candidate.failed for candidate in candidates if candidate.failed is not None]
    if len(failed) == len(candidates):
        return Refusal(" ".join(dict.fromkeys(failed)))
    by_candidate = evaluation_engine.replies(session, evaluation_worker.keys_by_candidate(keys), candidates)
    replies = {candidate: by_candidate[candidate] for candidate in keys if candidate in by_candidate}
    verdicts = _run_judge(session, plan, _texts(replies))
    return _Answers(plan, candidates, replies, verdicts, searched.progress)


@contextmanager
def _reported_spending(session: LlmSession, plan: ComparisonPlan) -> Iterator[None]:
    """Tells a program that started the command what the block has cost. Not after an exception: questions may still be
    under way then, so the program has to count the maximum."""
    since = time.time()
    yield
    answers = session.store.answers
    paid = {model: answers.totals_of(model, since=since) for model in plan.price_of}
    spent = spent_micros(plan.price_of, paid)
    lost = evaluation_engine.lost_micros(session, plan.price_of, OWNER)
    tell_program(Report(spent_micros=spent + lost))


def _write_questions(
    session: LlmSession, plan: ComparisonPlan
) -> tuple[ComparisonPlan, Mapping[Candidate, CandidateKeys]]:
    """Writes all candidates' questions. Returns the plan with the candidates as they could be built, and the keys."""
    keys = evaluation_worker.prepare(plan, session.files, session.folder, SEED)
    return plan.built_as(keys), keys


def learning_curve(
    rows: EvaluationRows, name: str, predict: tuple[int, ...], say: Callable[[str], None]
) -> Curve | Refusal:
    """Measures the classical model's learning curve. `predict` are numbers of rows; if empty, twice as many as now."""
    report = rows.report
    if report.task != "labels":
        return Refusal(f"A curve needs labels, but the answers in this file are {answers_name(report)}.")
    plan = CurvePlan(
        dataset=name,
        version=1,
        train_sha256=str(report.train_sha256),
        holdout_sha256=str(report.holdout_sha256),
        predict=predict or (2 * report.n_train,),
    )
    say(f"The classical model learns from parts of the {report.n_train:,} rows.")
    try:
        return evaluation_worker.classical_curve_of(plan, rows.files, SEED)
    except ValueError as few:
        return Refusal(f"{few}.")


def _needs_own_trainer(wanted: EvaluationRequest) -> bool:
    """True if some model is served by our own trainer, which therefore has to run."""
    for name in (wanted.judge, wanted.writer):
        if name is not None and name.startswith("local/"):
            return True
    if candidates.is_free(wanted.kinds) and not wanted.optimise:
        return False
    # Without a named model our own trainer's are asked, and a name without a slash is one of them.
    if not wanted.models:
        return True
    return any(name.startswith("local/") or "/" not in name for name in wanted.models)


def _plan(session: LlmSession, wanted: EvaluationRequest, rows: EvaluationRows) -> ComparisonPlan | Refusal:
    report = rows.report
    today = utc_today()
    command = Baseline(
        wanted.file.stem,
        wanted.models,
        wanted.kinds,
        judge=wanted.judge,
        optimise=wanted.optimise,
        writer=wanted.writer,
        shots=wanted.shots,
    )
    spelling = TerminalSpelling(str(wanted.file))
    line_up = candidates.line_up(session.settings, session.trainers, command, report, today, spelling)
    if isinstance(line_up, Refusal):
        return line_up
    if wanted.optimise:
        few = too_few_rows_refusal(report.n_train)
        if few:
            return few
    refusal = _check_waiver(session, wanted, rows, line_up.all_models)
    if refusal:
        return refusal
    has_shots = any(candidate.kind == "kshot" for candidate in line_up.candidates)
    return line_up.plan(
        wanted.file.stem,
        1,
        report,
        today,
        prompt=wanted.prompt,
        bar=wanted.bar,
        is_bar_set=wanted.is_bar_set,
        optimise=wanted.optimise,
        chooses_shots=wanted.shots == 0 and has_shots,
    )


def _check_waiver(
    session: LlmSession, wanted: EvaluationRequest, rows: EvaluationRows, models: Sequence[PricedModel]
) -> Refusal | None:
    """Refuses to send personal data to a vendor without a reason. Records a reason in the audit log."""
    report = rows.report
    faults = faults_in(wanted.prompt or "")
    # A waiver covers personal data only, so a secret is refused before one is asked for.
    secret = next((fault.text for fault in faults if fault.rule == SECRET), None)
    if secret:
        return Refusal(f"The prompt {secret}, so it is not sent to any model. Remove the secret.")
    codes = {finding.code for finding in report.findings}
    codes |= {fault.rule.code for fault in faults}

    for sha256 in (report.train_sha256, report.holdout_sha256):
        codes |= scan_file(rows.files / f"{sha256}.jsonl", presidio=False).codes
    vendors = [model.row.title for model in models if needs_waiver(codes, stays_here=model.row.stays_here)]
    if not vendors:
        return None
    if wanted.waive is None:
        return Refusal(
            f"{wanted.file} or the prompt has personal data, which may be sent to {vendors[0]} only with a reason: "
            '--waive "the customers agreed, ticket LEGAL-12". The reason is recorded with the answers. Models of your '
            "own trainer (local/…) need none."
        )
    if not has_enough_words(wanted.waive):
        return Refusal(reason_too_short())
    session.store.audit.add(
        at=time.time(),
        who=getuser(),
        action="waive",
        subject=f"file {wanted.file.name}",
        detail=f"to {', '.join(dict.fromkeys(vendors))}: {wanted.waive}",
    )
    return None


def _check_cost(
    session: LlmSession,
    plan: ComparisonPlan,
    keys: Mapping[Candidate, CandidateKeys],
    max_usd: Decimal | None,
) -> Refusal | None:
    """Refuses an evaluation that could cost more than the budget for one measurement, or more than `max_usd`. Otherwise
    prints its maximum cost."""
    answered = session.store.answers.answered([key for keys in keys.values() for key in keys.keys])
    most = max_evaluation_micros(
        plan.price_of,
        keys,
        answered,
        evaluation_worker.plan_max_tokens(plan),
        plan.thinking,
    )
    search = _max_search_micros(session, plan)
    if isinstance(search, Refusal):
        return search
    judge = _max_judge_micros(session, plan, keys, answered)
    most += search + _max_shots_micros(session, plan) + judge
    limit = to_micros(session.settings.budget.measurement_usd)
    if most > limit:
        return Refusal(
            f"This could cost up to {usd_micros(most)}, but one measurement may cost {usd_micros(limit)}. Name fewer "
            "models or candidates, or raise `measurement_usd` under [budget] in finetune.toml."
        )
    if max_usd is not None and most > to_micros(max_usd):
        tell_program(Report(refused_micros=most))
        return Refusal(
            f"This could cost up to {usd_micros(most)}, but --max-usd allows {usd(max_usd)}. Name fewer models or "
            "candidates, or allow more."
        )
    tell_program(Report(most_micros=most))
    if most:
        session.say.keep(f"This costs at most {usd_micros(most)}; answers from earlier runs are free.")
    return None


def _answer_free(
    session: LlmSession, plan: ComparisonPlan, candidate: Candidate, keys: CandidateKeys
) -> CandidateProgress:
    """Computes and stores a free candidate's answers, unless they are stored already."""
    of = len(keys.keys)
    if not set(keys.keys) <= session.store.answers.answered(keys.keys):
        session.say(f"{capitalize(LONG_NAMES[candidate.kind])} learns from the rows.")
        replies = evaluation_worker.free_answers(candidate, plan, session.files, session.folder, SEED)
        if isinstance(replies, Refusal):
            return CandidateProgress(candidate, of, failed=replies.text)
        evaluation_engine.store_free_answers(session, candidate, keys.keys, replies, time.time())
    return CandidateProgress(candidate, of, answered=of)


def _max_judge_micros(
    session: LlmSession,
    plan: ComparisonPlan,
    keys: Mapping[Candidate, CandidateKeys],
    answered: Collection[str],
) -> int:
    """Returns the most that the judge can cost, in micro-dollars. Verdicts from earlier runs are free."""
    if plan.judge is None:
        return 0
    is_all_answered = all(key in answered for keys in keys.values() for key in keys.keys)
    # Only then is it known what the judge will read; otherwise the longest answers are assumed.
    if plan.search is None and not plan.chooses_shots and is_all_answered:
        candidates = [CandidateProgress(candidate, len(keys.keys)) for candidate, keys in keys.items()]
        replies = evaluation_engine.replies(session, evaluation_worker.keys_by_candidate(keys), candidates)
        texts = _texts(replies)
        first = judge_worker.write_acceptable_questions(plan, texts, session.files, session.folder)
        if first.key_set <= session.store.answers.answered(first.priced.keys):
            verdicts = judgements.judge_answers(session, plan, first, None, JudgeProgress())
            second = judge_worker.write_better_questions(plan, texts, verdicts, session.files, session.folder)
            return _missing_micros(session, plan, second)
    return judge_worker.max_micros(plan, judge_worker.longest_questions(plan, session.files), ())


def _run_judge(session: LlmSession, plan: ComparisonPlan, texts: Texts) -> JudgeAnswers | None:
    """Asks the judge and returns its verdicts; None if there is no judge."""
    if plan.judge is None:
        return None
    # The judge may not cost more than was announced, whatever the answers are.
    agreed = judge_worker.max_micros(plan, judge_worker.longest_questions(plan, session.files), ())
    first = judge_worker.write_acceptable_questions(plan, texts, session.files, session.folder)
    cost = _missing_micros(session, plan, first)
    failed = _ask_judge(session, plan, first, judge_worker.ACCEPTABLE, is_too_dear=cost > agreed)
    verdicts = judgements.judge_answers(session, plan, first, None, JudgeProgress(failed=failed))
    if failed:
        return verdicts
    second = judge_worker.write_better_questions(plan, texts, verdicts, session.files, session.folder)
    cost += _missing_micros(session, plan, second)
    unpaired = _ask_judge(session, plan, second, judge_worker.BETTER, is_too_dear=cost > agreed)
    return judgements.judge_answers(session, plan, first, second, JudgeProgress(unpaired=unpaired))


def _ask_judge(
    session: LlmSession, plan: ComparisonPlan, questions: Questions, name: str, *, is_too_dear: bool
) -> str | None:
    """Asks the judge the questions, which are in the file `name`. Returns why it could not be asked, None if it was."""
    if is_too_dear:
        return f"Asking {plan.judge} could cost more than was estimated."
    evaluation = judgements.evaluation_of(OWNER, plan, questions, session.folder / f"{name}.jsonl")
    return wait_for_answers(session, evaluation, "verdicts given")[0].failed


def _missing_micros(session: LlmSession, plan: ComparisonPlan, questions: Questions) -> int:
    """Returns the most that the unanswered questions can cost, in micro-dollars."""
    answered = session.store.answers.answered(questions.priced.keys)
    return judge_worker.max_micros(plan, questions.priced, answered)


def _texts(replies: Mapping[Candidate, Sequence[Reply]]) -> Texts:
    return {candidate: [reply.text for reply in its_replies] for candidate, its_replies in replies.items()}


@dataclass(frozen=True)
class _SearchedPlan:
    """The plan, with the new prompt if it is better, and how the search went."""

    plan: ComparisonPlan
    progress: SearchProgress | None = None


def _search_prompt(session: LlmSession, plan: ComparisonPlan) -> _SearchedPlan:
    """Searches for a better prompt if the plan has a budget for it. Raises AnswerTimeout."""
    if plan.search is None:
        return _SearchedPlan(plan)
    since = time.time()
    declined: dict[str, str] = {}
    files = session.files
    folder = session.folder
    # Replayed from the stored answers, so that a repeated command continues the search.
    replay = worker.replay(plan, {}, files, folder, SEED)
    while True:
        spent = evaluation_engine.spent_micros(session, plan.price_of, replay.keys_of(plan.search), since)
        missing = set(replay.open) - session.store.answers.answered(replay.open)
        if not replay.open:
            return _conclude_search(plan, replay, spent)
        if missing and not replay.stays_within(plan.search.most_micros, spent, missing):
            return _conclude_search(plan, replay, spent, prompt_search.BUDGET_USED)
        questions = partial(worker.read_questions, folder, plan, replay)
        evaluation = Evaluation(OWNER, {replay.candidate: replay.open}, questions)
        so_far = progress_text(replay.progress(SearchProgress()))
        (progress,) = wait_for_answers(
            session, evaluation, f"answered in the search for a better prompt, {so_far}"
        )
        if progress.failed:
            return _conclude_search(plan, replay, spent, progress.failed)
        # As an empty answer, since the search would otherwise ask it again and again.
        declined |= dict.fromkeys(progress.declined, "")
        answers = session.store.answers.read(replay.all_keys)
        texts = {key: answer.text for key, answer in answers.items()}
        replay = worker.replay(plan, declined | texts, files, folder, SEED)


def _choose_shots(session: LlmSession, plan: ComparisonPlan) -> ComparisonPlan:
    """Returns the plan with the number of examples that does best on training rows. Raises AnswerTimeout."""
    answer_keys = evaluation_worker.keys_by_candidate(
        few_shot.prepare(plan, session.files, session.folder, SEED)
    )
    questions = partial(
        evaluation_worker.read_questions, session.folder / evaluation_worker.SHOTS_FOLDER, plan
    )
    candidates = wait_for_answers(
        session, Evaluation(OWNER, answer_keys, questions), "answered to choose examples"
    )
    replies = evaluation_engine.replies(session, answer_keys, candidates)
    return few_shot.with_shots(plan, few_shot.score_shots(plan, replies, session.files, SEED))


def _max_shots_micros(session: LlmSession, plan: ComparisonPlan) -> int:
    """Returns the most that choosing the number of examples can cost, in micro-dollars."""
    if not plan.chooses_shots:
        return 0
    keys = few_shot.prepare(plan, session.files, session.folder, SEED)
    return few_shot.most_micros(session, plan, keys)


def _max_search_micros(session: LlmSession, plan: ComparisonPlan) -> int | Refusal:
    """Returns the most that the search can cost in micro-dollars, or a refusal if its budget is too small."""
    if plan.search is None:
        return 0
    replay = worker.replay(plan, {}, session.files, session.folder, SEED)
    refusal = prompt_search.budget_refusal(plan.search, replay)
    if refusal:
        return Refusal(refusal)
    return worker.max_micros(plan)


def _conclude_search(
    plan: ComparisonPlan, replay: Replay, spent: int, ended: str | None = None
) -> _SearchedPlan:
    progress = replace(replay.progress(SearchProgress()), spent_micros=spent, ended=ended, is_over=True)
    if replay.is_better:
        plan = worker.with_prompt(plan, replay.prompt)
    return _SearchedPlan(plan, progress)
