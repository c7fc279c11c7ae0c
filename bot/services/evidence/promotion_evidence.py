"""Loads what speaks for and against using a tuned model or a measured candidate: its scores beside those of what is in
use, of the alternatives, and of the bar. Writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from bot.cards.common.advice import NOT_OFFERED, Offered
from bot.cards.common.candidates import promotable_name, table_name
from bot.cards.training.result_comparison import better_name
from bot.context import AppContext
from bot.rules.facts import without_trained_candidate
from bot.rules.models.promotion import (
    LabelRecall,
    LiveProof,
    ModelComparison,
    PromotionEvidence,
    best_comparison,
    compare_change,
    compare_models,
    find_objections,
    labels_below_floor,
)
from bot.rules.plans import Plan, plan_from_json
from bot.services.common import finished_measurements
from bot.services.datasets import datasets
from bot.services.evidence import checked_judges, looks
from bot.services.evidence.evidence import (
    comparable_alternatives,
    current_bar,
    load_evidence,
    request_usd,
    request_usd_of,
    tuned_candidate,
)
from bot.services.evidence.measured_candidates import known_candidates, load_measured
from bot.services.evidence.scored_rows import ScoredOn, find_common_positions, load_scored_rows
from bot.values.evaluations import promotable_candidate, promoted_candidate
from bot.values.runs import Before, RunResult
from storage.promotions import Promotion
from storage.records import AnswerRow, Measurement, Model, Promotable, Run
from trainers.dataset import read
from trainers.dataset.rows import at, distinct_example_indices
from trainers.evaluation.comparison import usd_per_1000
from trainers.evaluation.quality_threshold import judge_candidates
from trainers.evaluation.results import Candidate, MeasuredCandidate, Reply, find_best
from trainers.evaluation.statistics import Interval
from trainers.providers.pricing import PriceList

RIGHT_OR_WRONG = ("label", "judge", "calls")  # every score is 1 or 0, as for the stored answers of a run
SIBLINGS = 10  # only the best other models are compared: a worse one can't be the strongest rival


@dataclass(frozen=True)
class Scores:
    """The scores of what can be promoted, and what they rest on: the held-out rows and the judge. `candidate` is None
    if it has none. `usd` is the cost of 1,000 requests in production, None if unknown. `look` is the number of the look
    at these rows that measured it."""

    name: str
    holdout_sha256: str
    candidate: MeasuredCandidate | None = None
    judge: str | None = None
    usd: Decimal | None = None
    look: int = 1


def promotion_proof(
    context: AppContext, what: Promotable, used: Promotable | None, run: Run | None = None
) -> PromotionEvidence:
    """Returns what speaks for and against using a tuned model or a candidate. `used` is what it would replace. `run` is
    the model's own run if it is newer than the stored one."""
    model = context.store.model(what.model or "")
    if model is None:
        proof = _candidate_proof(context, what, used)
    else:
        proof = _model_proof(context, model, used, run)
    return replace(proof, live=_live_proof(context, what, used))


def _live_proof(context: AppContext, what: Promotable, used: Promotable | None) -> LiveProof | None:
    """Returns what a live test has shown of it against `used`, None if none has decided for it."""
    test = context.store.live_tests.last_won(what)
    if test is None or used is None:
        return None
    standing = context.store.promotions.get(test.promotion)
    # It stays evidence once this has replaced that, as its card shows it then.
    if standing is None or standing.what != used:
        return None
    calls = context.store.compared_calls.of(test.id)
    verdicts = Counter(call.verdict for call in calls)
    # A test that asked whether it is better has no margin.
    margin = None
    if test.outcome == "not_worse":
        margin = test.margin
    return LiveProof(verdicts.total(), verdicts["candidate"], verdicts["incumbent"], margin)


def is_supported(context: AppContext, what: Promotable, standing: Promotion | None) -> bool:
    """True if one click may deploy this in place of what is in use: nothing speaks against it."""
    used = None
    if standing is not None:
        used = standing.what
    if used == what:
        return False
    proof = promotion_proof(context, what, used)
    return not find_objections(proof)


def find_offered(context: AppContext, dataset: str, holdout: str, candidate: Candidate) -> Offered:
    """Returns whether a candidate can be used as its newest measurement on this holdout measured it."""
    measured = load_measured(context.store, context.settings.files, dataset, holdout)
    if measured is None or candidate not in measured.measured_by:
        return NOT_OFFERED
    measurement = measured.measured_by[candidate]
    return _offer(context, dataset, candidate, measurement.id)


def offer_cheapest(context: AppContext, measurement: Measurement) -> Offered:
    """Returns whether the cheapest candidate that meets the bar can be used, by what is known with this
    measurement."""
    holdout = known_candidates(context.store, context.settings.files, measurement)
    cheapest = holdout.comparison.cheapest
    if cheapest is None or cheapest.kind == "tuned":
        return NOT_OFFERED
    dataset = context.store.datasets.get(measurement.dataset_id)
    measured_by = holdout.measured_by[cheapest]
    return _offer(context, dataset.name, cheapest, measured_by.id)


def _offer(context: AppContext, dataset: str, candidate: Candidate, measurement: int) -> Offered:
    standing = context.store.promotions.current(dataset)
    what = promotable_candidate(candidate, measurement)
    if is_supported(context, what, standing):
        return Offered(measurement)
    if standing is None:
        return NOT_OFFERED
    # Whichever measurement it comes from: measured again with another prompt, it may be better and is offered above.
    if promoted_candidate(standing.what) == candidate:
        return Offered(in_use_since=standing.at)
    return Offered(replaces=promotable_name(standing.what))


def promotion_scores(context: AppContext, what: Promotable) -> Scores:
    """Returns the scores by which a tuned model or a candidate is compared with another one."""
    model = context.store.model(what.model or "")
    if model is None:
        return _candidate_scores(context, what)
    run, plan = _run(context, model)
    return _model_scores(context, model.name, run, plan)


def measured_score(context: AppContext, model: Model) -> tuple[Plan, MeasuredCandidate | None]:
    """Returns the plan of the model's run, and the model's score, None if there is none."""
    run, plan = _run(context, model)
    return plan, tuned_candidate(context.store, run)


def _candidate_proof(context: AppContext, what: Promotable, used: Promotable | None) -> PromotionEvidence:
    """It needn't be better than the other alternatives: the cheapest that meets the bar is what a team is told to
    use."""
    scores = _candidate_scores(context, what)
    proof = PromotionEvidence(
        scores.candidate,
        used=promotable_name(used) if used else None,
        limits=context.settings.policy.promotion,
        is_tuned=False,
    )
    measurement = context.store.measurements.get(what.measurement or 0)
    if scores.candidate is None or measurement is None:
        return proof
    dataset = context.store.datasets.get(measurement.dataset_id)
    recalls = _label_recalls(context, scores)
    proof = replace(
        proof,
        bar=current_bar(context, dataset.name),
        low=labels_below_floor(recalls, proof.limits),
        judge=checked_judges.judge_for_page(context.store, measurement),
    )
    if used is None:
        return proof
    used_scores = promotion_scores(context, used)
    return replace(proof, against_used=_compare(context, scores, used_scores))


def _candidate_scores(context: AppContext, what: Promotable) -> Scores:
    identity = promoted_candidate(what)
    measurement = context.store.measurements.get(what.measurement or 0)
    measured = _measured(context, identity, measurement)
    evaluation = None
    if measurement is not None:
        evaluation = finished_measurements.read_evaluation(measurement)
    name = promotable_name(what)
    if measured is None or evaluation is None:
        return Scores(name, "")
    provider, _, model = (measured.model or "").partition("/")
    usd = request_usd(context.settings, provider, model, measured.usd_per_1000)
    return Scores(
        name,
        evaluation.plan.holdout_sha256,
        measured,
        evaluation.judge,
        usd,
        measured.look,
    )


def _measured(
    context: AppContext, identity: Candidate | None, measurement: Measurement | None
) -> MeasuredCandidate | None:
    """Returns the candidate as this measurement measured it, judged by the bar as it is now. None if the measurement
    has no result any more, or one of a newer version."""
    if measurement is None or finished_measurements.read_evaluation(measurement) is None:
        return None
    dataset = context.store.datasets.get(measurement.dataset_id)
    if dataset.forgotten_at is not None:
        return None
    bar = current_bar(context, dataset.name)
    holdout = known_candidates(context.store, context.settings.files, measurement, bar)
    for candidate in holdout.comparison.candidates:
        if candidate.identity == identity:
            return candidate
    return None


def _label_recalls(context: AppContext, scores: Scores) -> list[LabelRecall]:
    """Returns how many rows of each label were right. Empty if the answers are no labels, their rows are gone, or no
    floor asks for it."""
    has_floor = context.settings.policy.promotion.floor is not None
    candidate = scores.candidate
    if not has_floor or candidate is None or candidate.scoring != "label":
        return []
    path = context.settings.files / f"{scores.holdout_sha256}.jsonl"
    if not path.is_file():
        return []
    examples = read(path, path.name).examples
    # Copies of a row count once, as in the scores.
    rows = at(distinct_example_indices(examples), examples)
    labels = [str(row.answer) for row in rows]
    right: Counter[str] = Counter()
    for label, score in zip(labels, candidate.scores, strict=True):
        right[label] += score == 1
    return [LabelRecall(label, labels.count(label), count) for label, count in right.items()]


def _model_scores(context: AppContext, name: str, run: Run, plan: Plan) -> Scores:
    candidate = tuned_candidate(context.store, run)
    if candidate is None:
        return Scores(name, plan.holdout_sha256)
    usd = request_usd_of(context.settings, plan, candidate.usd_per_1000)
    history = looks.history(context.store, plan.dataset, plan.holdout_sha256)
    look = looks.number_of_tuned(history, run)
    return Scores(name, plan.holdout_sha256, candidate, plan.judge, usd, look)


def _model_proof(
    context: AppContext, model: Model, used: Promotable | None, run: Run | None
) -> PromotionEvidence:
    stored, plan = _run(context, model)
    run = run or stored
    scores = _model_scores(context, model.name, run, plan)
    proof = PromotionEvidence(
        scores.candidate,
        used=promotable_name(used) if used else None,
        is_gone=model.gone_at is not None,
        limits=context.settings.policy.promotion,
        bar=current_bar(context, plan.dataset),
    )
    if run.result is None:
        return proof
    result = RunResult.from_json(run.result)
    if scores.candidate is not None:
        proof = _with_comparisons(context, proof, run, plan, result, scores, used)
    no_go = None
    if result.advice is not None and result.advice.kind == "no_go":
        no_go = result.advice.headline
    labels = (LabelRecall(label.label, label.rows, label.tuned) for label in result.labels)
    return replace(
        proof,
        no_go=no_go,
        low=labels_below_floor(labels, proof.limits),
        worse=result.worse_labels,
        worse_than=better_name(result),
        judge=checked_judges.judge_of_result(context, plan, result),
    )


def _with_comparisons(
    context: AppContext,
    proof: PromotionEvidence,
    run: Run,
    plan: Plan,
    result: RunResult,
    scores: Scores,
    used: Promotable | None,
) -> PromotionEvidence:
    """Adds how a tuned model compares with what answered before its training, with the alternatives, with better models
    and with what is in use."""
    if scores.candidate is None:
        return proof
    with_base = _compare_with_base(context, run, plan, result, scores)
    comparisons = [
        *_compare_with_alternatives(context, run, plan, result, scores),
        *_find_better_models(context, scores),
    ]
    if with_base is not None:
        comparisons.insert(0, with_base)
    # Its run judged it by the bar as it was then.
    (candidate,) = judge_candidates((scores.candidate,), proof.bar)
    proof = replace(
        proof,
        candidate=candidate,
        best=best_comparison(comparisons, proof.limits.margin),
        others_judge=_others_judge(context, plan, candidate),
    )
    if used is None:
        return proof
    if plan.starts_from is not None and used.model == plan.starts_from.name:
        # The run asked it the same rows, which needn't be those that it was measured on itself.
        return replace(proof, against_used=with_base)
    used_scores = promotion_scores(context, used)
    return replace(proof, against_used=_compare(context, scores, used_scores))


def _others_judge(context: AppContext, plan: Plan, candidate: MeasuredCandidate) -> str | None:
    """Returns the judge that scored the alternatives since, None if no other judge did than the model's own."""
    if candidate.scoring != "judge":
        return None
    files = context.settings.files
    measured = load_measured(context.store, files, plan.dataset, plan.holdout_sha256)
    if measured is None or measured.judge in (None, plan.judge):
        return None
    return measured.judge


def _run(context: AppContext, model: Model) -> tuple[Run, Plan]:
    run = context.store.runs.of_model(model)
    return run, plan_from_json(run.plan)


def _compare_with_alternatives(
    context: AppContext, run: Run, plan: Plan, result: RunResult, tuned: Scores
) -> Iterator[ModelComparison]:
    """Yields comparisons with each alternative that answered the same rows and was scored in the same way."""
    own = tuned.candidate
    if own is None:
        return
    dataset = context.store.datasets.get(run.dataset_id)
    report = datasets.report_of(dataset)
    if report is None or report.holdout_sha256 != plan.holdout_sha256:
        return
    everything = load_evidence(context, dataset, report, None)
    evidence = without_trained_candidate(everything, plan.method)
    comparable = []
    for candidate in comparable_alternatives(evidence, plan.judge):
        if candidate.scoring == own.scoring and candidate.n == own.n:
            comparable.append(candidate)
    best = None
    if not result.is_base_ahead:
        best = find_best(comparable)
    for candidate in comparable:
        provider, _, model = (candidate.model or "").partition("/")
        usd = request_usd(context.settings, provider, model, candidate.usd_per_1000)
        compared = compare_models(
            table_name(candidate.identity),
            own.scores,
            candidate.scores,
            tuned.usd,
            usd,
            look=tuned.look,
            read=own.read,
        )
        yield replace(compared, is_best=candidate is best)


def _compare_with_base(
    context: AppContext,
    run: Run,
    plan: Plan,
    result: RunResult,
    scores: Scores,
) -> ModelComparison | None:
    """Compares with what answered before the training. Returns None if the two did not answer the same rows, or if
    older results don't tell how they compare by shares of a row."""
    tuned = scores.candidate
    if tuned is None:
        return None
    base: Sequence[AnswerRow] = context.store.runs.answers(run.id, "base")
    if len(base) != tuned.n:
        # All rows were asked, and copies of a row count once in the tuned model's score.
        scored = load_scored_rows(context.settings.files, plan.holdout_sha256)
        positions = [position for position in scored.positions if position < len(base)]
        base = at(positions, base)
    if len(base) != tuned.n:
        return None
    name, base_usd = _describe_base(context, plan, result.before, base)
    if tuned.scoring in RIGHT_OR_WRONG:
        before = [float(answer.correct) for answer in base]
        return compare_models(
            name, tuned.scores, before, scores.usd, base_usd, look=scores.look, read=tuned.read
        )
    change = result.partial
    if change is None:
        return None
    shown = Interval(change.low, change.high)
    return compare_change(name, change.before.score, shown, tuned, scores.usd, base_usd, look=scores.look)


def _describe_base(
    context: AppContext, plan: Plan, before: Before, answers: Sequence[AnswerRow]
) -> tuple[str, Decimal | None]:
    """Returns the name of what answered before the training, and the USD of 1,000 requests to it."""
    if before in ("classical", "encoder"):
        return table_name(Candidate(before)), Decimal(0)
    usd_of_base = _base_usd(plan, answers)
    usd = request_usd_of(context.settings, plan, usd_of_base)
    if plan.starts_from is not None:
        return plan.starts_from.name, usd
    return f"the untuned base, {plan.base_model}", usd


def _base_usd(plan: Plan, answers: Sequence[AnswerRow]) -> Decimal | None:
    """Returns the USD of 1,000 requests to the untuned base, computed from its answers."""
    candidate = Candidate("zero", f"{plan.provider}/{plan.base_model}")
    replies = []
    for answer in answers:
        tokens = (answer.prompt_tokens, answer.completion_tokens)
        replies.append(Reply(answer.text, *tokens, answer.seconds, answer.came_at))
    # A plan's prices begin with the tuned model's, then the base's.
    row = PriceList.from_json(plan.prices).rows[1]
    return usd_per_1000(candidate, replies, {str(candidate.model): row})


def _find_better_models(context: AppContext, scores: Scores) -> Iterator[ModelComparison]:
    """Yields comparisons with the tuned models that are shown to be better than this one."""
    for other in context.store.best_models(scores.holdout_sha256, SIBLINGS, but=scores.name):
        run, plan = _run(context, other)
        # As if it were the first that was measured: a claim against it needs no correction.
        as_first = replace(scores, look=1)
        theirs = _model_scores(context, other.name, run, plan)
        compared = _compare(context, as_first, theirs)
        if compared and compared.is_worse:
            yield compared


def _compare(context: AppContext, mine: Scores, theirs: Scores) -> ModelComparison | None:
    """Compares two on the rows that both answered; the holdout of a later version contains the earlier one's. Returns
    None if they have no rows in common or were scored differently."""
    own = mine.candidate
    other = theirs.candidate
    if own is None or other is None or other.scoring != own.scoring:
        return None
    if own.scoring == "judge" and theirs.judge != mine.judge:
        return None
    scored = (ScoredOn(mine.holdout_sha256, own), ScoredOn(theirs.holdout_sha256, other))
    own_positions, other_positions = find_common_positions(context.settings.files, scored)
    if not own_positions:
        return None
    # By their number among the common rows, whose scores are compared.
    read = [number for number, position in enumerate(own_positions) if position in own.read]
    return compare_models(
        theirs.name,
        at(own_positions, own.scores),
        at(other_positions, other.scores),
        mine.usd,
        theirs.usd,
        look=mine.look,
        read=read,
    )
