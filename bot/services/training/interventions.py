"""Runs that need a person's decision: records approvers' votes, and carries out a decision at a later tick, after
looking at the provider once more."""

from __future__ import annotations

from bot.cards.common.blocks import escape
from bot.cards.training.runs import STATE_TEXTS, no_such_run
from bot.context import AppContext
from bot.rules.permissions import find_deciding_votes
from bot.rules.plans import Plan, plan_from_json
from bot.services.common import authorization
from bot.services.common.provider_jobs import trainer_limits
from bot.services.decisions import plan_requests
from bot.services.evidence import notifications, run_states
from bot.values.runs import Progress, Refusal
from storage.jobs import InterventionChoice, InterventionDecision
from storage.records import Run, is_due
from trainers.client.client import Trainer
from trainers.client.payloads import METADATA_KEY, accepted_hyperparameters, job_has_key
from trainers.errors import Refused, TrainerError
from trainers.types import Job

LOOK_AGAIN_S = 15.0
GIVE_UP_UNSEEN_S = 3600.0
CLOCKS_DIFFER_S = 3600.0


def may_decide(context: AppContext, number: int, person: str) -> Run | Refusal:
    run = context.store.runs.get(number)
    if run is None:
        return Refusal(no_such_run(number))
    if run.state != "needs_human":
        return Refusal(f"Run {number} needs no decision any more: it {STATE_TEXTS[run.state]}.")
    request = plan_requests.approval_request(plan_from_json(run.plan))
    refusal = authorization.refusal(context, person, "resolve", request=request)
    if refusal:
        return refusal
    return run


def decide(
    context: AppContext,
    number: int,
    choice: InterventionChoice,
    person: str,
    reason: str,
    job_id: str | None = None,
) -> Run | Refusal:
    """Records a person's vote. Each person has one, which counts until it is carried out or voided."""
    reason = reason.strip()
    if not reason:
        return Refusal("Say how you know; the audit log keeps it.", "reason")
    job_id = (job_id or "").strip() or None
    if choice == "adopt" and job_id is None:
        return Refusal("Which job? You find its id in the provider's list of jobs.", "job")
    allowed = may_decide(context, number, person)
    if isinstance(allowed, Refusal):
        return allowed
    now = context.clock()
    # Who may decide was asked of Slack, which takes a while, so the run is read again.
    with context.store.transaction():
        run = context.store.runs.get(number)
        if run is None or run.state != "needs_human":
            return Refusal(f"Run {number} moved on just now.")
        vote = context.store.interventions.decide(run, choice, job_id, person, reason, now=now)
        if vote is None:
            return Refusal(
                "You have already decided. It waits for another approver, or is being carried out."
            )
        detail = reason
        if job_id:
            detail = f"{job_id}: {reason}"
        context.audit(person, choice.replace("_", " "), f"run {run.id}", detail)
        context.store.runs.move(run, "needs_human", now=now, next_at=now)
        notifications.show_intervention(context, run, context.store.interventions.of(run))
    return run


def step(context: AppContext, number: int) -> None:
    """Carries out a decision once enough people have voted for it."""
    run = context.store.runs.get(number)
    if run is None or run.state != "needs_human":
        return
    if not is_due(run.next_at, context.clock()):
        return
    votes = _find_decision(context, run)
    if not votes:
        return
    trainer = context.trainers.get(run.provider)
    last = votes[-1]
    try:
        if last.choice == "give_up":
            _give_up(context, run, trainer, votes)
        elif trainer is None:
            _void_votes(context, run, f"there is no key for {escape(run.provider)} where the bot runs.")
        elif last.choice == "adopt":
            _adopt(context, run, trainer, last)
        else:
            _retry(context, run, trainer, votes)
    except TrainerError as trouble:
        _look_again(context, run)
        decisions = context.store.interventions.of(run)
        notifications.show_intervention(context, run, decisions, note=f"{trouble} Looking again.")


def _look_again(context: AppContext, run: Run) -> None:
    now = context.clock()
    context.store.runs.move(run, "needs_human", now=now, next_at=now + LOOK_AGAIN_S)


def _find_decision(context: AppContext, run: Run) -> list[InterventionDecision]:
    """Returns the votes that decide, an empty list if there are too few. Slack is only asked who may decide if there
    are enough votes at all; if they turn out to be too few, it is asked again later."""
    plan = plan_from_json(run.plan)
    its_own = (plan.requester, plan.uploaded_by)  # an older release accepted their votes, too
    waiting = (vote for vote in context.store.interventions.of(run) if vote.outcome is None)
    decisions = [vote for vote in waiting if vote.person not in its_own]
    people = [vote.person for vote in decisions]
    if not find_deciding_votes(decisions, people):
        return []
    rules = authorization.current_rules(context, "resolve")
    entitled = rules.filter_entitled("resolve", people)
    votes = find_deciding_votes(decisions, entitled)
    if not votes:
        _look_again(context, run)
    return votes


def resolve_with_job(context: AppContext, run: Run, job: Job) -> bool:
    """Takes over a job that has the run's key, without anybody's decision. Returns False if another thread was
    faster."""
    return _take_over(context, run, f"Job {escape(job.id)} was found there and is taken over.", job)


def _adopt(context: AppContext, run: Run, trainer: Trainer, vote: InterventionDecision) -> None:
    try:
        job = trainer.job(str(vote.job_id))
    except Refused as refused:
        _void_votes(context, run, escape(str(refused)))
        return
    plan = plan_from_json(run.plan)
    problem = _mismatch(context, run, plan, job)
    proof = "It has our key."
    if problem is None and not job_has_key(job, run.key):
        problem = _difference_from_plan(trainer, run, plan, job)
        proof = "It doesn't have our key, but its settings and its file are the plan's."
    if problem:
        _void_votes(context, run, problem)
        return
    _take_over(context, run, f"Job {escape(job.id)} is taken over. {proof}", job)


def _mismatch(context: AppContext, run: Run, plan: Plan, job: Job) -> str | None:
    """Returns why this job can't be the run's, None if it can."""
    name = f"job {escape(job.id)}"
    theirs = job.metadata.get(METADATA_KEY)
    if theirs not in (None, run.key):
        return f"{name} has the key of something else that we asked for, {escape(str(theirs))}."
    other = context.store.runs.with_job(job.id)
    if other is not None and other.id != run.id:
        return f"{name} belongs to run {other.id}."
    wanted = [plan.model_id]
    if plan.starts_from is None:
        wanted.append(plan.base_model)
    if job.model not in wanted:
        return f"{name} trains {escape(job.model)}, and the plan says {escape(wanted[-1])}."
    if job.created_at < run.created_at - CLOCKS_DIFFER_S:
        return f"{name} was created before this run was asked for."
    return None


def _difference_from_plan(trainer: Trainer, run: Run, plan: Plan, job: Job) -> str | None:
    """Returns how a job without our key differs from the approved plan, None if it doesn't. Raises TrainerError if that
    can't be checked now."""
    name = f"job {escape(job.id)} doesn't have our key, and"
    settings = dict(plan.hyperparameters) | trainer_limits(plan)
    planned = accepted_hyperparameters(trainer.provider, settings)
    for setting, value in planned.items():
        name_there = trainer.provider.hyperparameter_names.get(setting, setting)
        seen = job.hyperparameters.get(name_there, "not said")
        if seen != value:
            theirs = escape(str(seen))
            ours = escape(str(value))
            return f"{name} its {escape(setting)} is {theirs}, but the plan says {ours}."
    sha256 = plan.train_sha256
    if plan.validation_split:
        sha256 = plan.validation_split.fitted_sha256
    file = job.training_file
    unproven = f"{name} there is no proof that it trains on the plan's rows."
    if file is None:
        return unproven
    # A file that we have not uploaded may hold the same rows.
    if file != run.file_id and not trainer.has_content(file, sha256):
        return unproven
    return None


def _retry(context: AppContext, run: Run, trainer: Trainer, votes: list[InterventionDecision]) -> None:
    try:
        job = _find_job(trainer, run)
    except Refused as refused:
        _void_votes(context, run, f"the job can't be looked for. {escape(str(refused))}")
        return
    if job:
        text = f"Job {escape(job.id)} was found there and is taken over, not created again."
        _take_over(context, run, text, job)
        return
    text = f"Trying again, as {_mentions(votes)} decided: the bot looks for the job for 12 minutes, then creates it."
    now = context.clock()
    context.waits.begin(now)  # the 12 minutes
    with context.store.transaction():
        moved = context.store.runs.move(run, "creating", now=now, error=None, job_id=None)
        if moved:
            _conclude(context, run, moved, "tried again", text)


def _give_up(
    context: AppContext, run: Run, trainer: Trainer | None, votes: list[InterventionDecision]
) -> None:
    job = None
    if trainer is None:
        seen = f"The bot could not check whether there is a job: it has no key for {escape(run.provider)}."
    else:
        seen = "No job was found there."
        try:
            job = _find_job(trainer, run)
        except Refused as refused:
            seen = f"The bot could not check whether there is a job: {escape(str(refused))}"
        except TrainerError as trouble:
            if context.clock() - votes[-1].at < GIVE_UP_UNSEEN_S:
                raise
            seen = f"For an hour the bot could not check whether there is a job: {escape(str(trouble))}"
    if job:
        text = f"Job {escape(job.id)} was found there. It is being cancelled, and its cost will be booked."
        _take_over(context, run, text, job, cancel_asked_by=votes[-1].person)
        return
    text = f"Given up by {_mentions(votes)}. {seen}"
    with context.store.transaction():
        notifications.close_intervention(context, run, context.store.interventions.of(run), text)
        context.store.interventions.conclude(run, "carried out")
        run_states.end(context, run, "cancelled", text)


def _find_job(trainer: Trainer, run: Run) -> Job | None:
    """Returns the job with the run's key, or else the job whose id is known, None if neither exists."""
    jobs = trainer.find_jobs(run.key)
    if jobs:
        return jobs[0]
    if run.job_id is None:
        return None
    try:
        return trainer.job(run.job_id)
    except Refused as refused:
        if refused.is_missing:
            return None
        raise


def _take_over(
    context: AppContext,
    run: Run,
    text: str,
    job: Job,
    *,
    cancel_asked_by: str | None = None,
) -> bool:
    now = context.clock()
    # What the vendor quoted stays: it is part of what the run costs.
    before = Progress.from_json(run.progress)
    progress = Progress(vendor=before.vendor)
    changes = {
        "job_id": job.id,
        "error": None,
        "progress": progress.to_json(),
        "cancel_asked_by": cancel_asked_by,
    }
    with context.store.transaction():
        moved = context.store.runs.move(run, "training", now=now, **changes)
        if moved:
            _conclude(context, run, moved, "adopted", text)
    return moved is not None


def _conclude(context: AppContext, before: Run, after: Run, action: str, text: str) -> None:
    interventions = context.store.interventions
    context.audit("finetune", action, f"run {after.id}", text)
    notifications.close_intervention(context, before, interventions.of(before), text)
    interventions.conclude(before, "carried out")
    notifications.show_progress(context, after)


def _void_votes(context: AppContext, run: Run, why: str) -> None:
    """Voids the votes, which can't be carried out; everybody may vote again."""
    with context.store.transaction():
        context.audit("finetune", "not carried out", f"run {run.id}", why)
        context.store.interventions.conclude(run, why)
        notifications.show_intervention(context, run, context.store.interventions.of(run))


def _mentions(votes: list[InterventionDecision]) -> str:
    people = dict.fromkeys(vote.person for vote in votes)
    return " and ".join(f"<@{person}>" for person in people)
