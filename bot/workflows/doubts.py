"""A run that needs a person: what approvers decide about it is recorded, and carried out by the tick.

Whatever they say, the provider is looked at first: a job that is there is never created again nor forgotten.
"""

from __future__ import annotations

from bot.decisions.doubts import carried
from bot.decisions.planning import Plan, plan_from_json
from bot.results import Refusal
from bot.views.blocks import escape
from bot.views.runs import SAID
from bot.workflows import permits, plans, telling, training
from bot.workflows.desk import Desk
from bot.workflows.specs import limits_of
from storage.doubts import Choice, Word
from storage.records import Run, is_due
from trainers.client import Trainer
from trainers.creation import KEY, job_carries, sent_hyperparameters
from trainers.errors import Refused, TrainerError
from trainers.types import Job

LOOK_AGAIN_S = 15.0
GIVE_UP_UNSEEN_S = 3600.0
CLOCKS_DIFFER_S = 3600.0


def may_decide(desk: Desk, number: int, person: str) -> Run | Refusal:
    run = desk.store.runs.get(number)
    if run is None:
        return Refusal(f"There is no run {number}. `/finetune runs` lists them.")
    if run.state != "needs_human":
        return Refusal(f"Run {number} needs nobody's decision any more: it {SAID[run.state]}.")
    request = plans.request_of(plan_from_json(run.plan))
    return permits.may(desk, person, "resolve", request=request) or run


def decide(
    desk: Desk, number: int, choice: Choice, person: str, reason: str, job_id: str | None = None
) -> Run | Refusal:
    """Record a person's word. Each has one that counts until it is carried out or void."""
    reason, job_id = reason.strip(), (job_id or "").strip() or None
    if not reason:
        return Refusal("Say how you know: it is kept in the audit log.", "reason")
    if choice == "adopt" and job_id is None:
        return Refusal("Which job? Its id stands in the provider's list of jobs.", "job")
    now, allowed = desk.clock(), may_decide(desk, number, person)
    if isinstance(allowed, Refusal):
        return allowed
    with desk.store.transaction():
        run = desk.store.runs.get(number)
        if run is None or run.state != "needs_human":
            return Refusal(f"Run {number} moved on just now.")
        if desk.store.doubts.say(run, choice, job_id, person, reason, now=now) is None:
            return Refusal(
                "You have decided already; it waits for another approver, or is being carried out."
            )
        detail = f"{job_id}: {reason}" if job_id else reason
        _audit(desk, run, person, choice.replace("_", " "), detail)
        desk.store.runs.move(run, "needs_human", now=now, next_at=now)
        telling.doubt(desk, run, desk.store.doubts.of(run))
    return run


def step(desk: Desk, number: int) -> None:
    """Carry out what enough people have said."""
    run = desk.store.runs.get(number)
    if run is None or run.state != "needs_human" or not is_due(run.next_at, desk.clock()):
        return
    words = _enough(desk, run)
    if not words:
        return
    try:
        _carry_out(desk, run, words)
    except TrainerError as trouble:
        desk.store.runs.move(run, "needs_human", now=desk.clock(), next_at=desk.clock() + LOOK_AGAIN_S)
        telling.doubt(desk, run, desk.store.doubts.of(run), note=f"{trouble} Looking again.")


def _enough(desk: Desk, run: Run) -> list[Word]:
    """Slack is asked who may still decide only where enough have spoken; a no is asked again later."""
    plan = plan_from_json(run.plan)
    its_own = (plan.requester, plan.uploaded_by)  # an older release took their words, too
    waiting = (word for word in desk.store.doubts.of(run) if word.outcome is None)
    said = [word for word in waiting if word.person not in its_own]
    people = [word.person for word in said]
    if not carried(said, people):
        return []
    words = carried(said, permits.rules(desk, "resolve").entitled("resolve", people))
    if not words:
        desk.store.runs.move(run, run.state, now=desk.clock(), next_at=desk.clock() + LOOK_AGAIN_S)
    return words


def found(desk: Desk, run: Run, job: Job, who: str = "finetune") -> bool:
    """A job that carries its key is there: the doubt is over without anybody's word. False where another hand was
    quicker. `run` may also be one that an older database believes to be unapproved."""
    return _over(desk, run, f"Job {escape(job.id)} was found there and is taken over.", job, who)


def _carry_out(desk: Desk, run: Run, words: list[Word]) -> None:
    """TrainerError: the provider can't be looked at now."""
    trainer, last = desk.trainers.get(run.provider), words[-1]
    if last.choice == "give_up":
        _give_up(desk, run, trainer, words)
    elif trainer is None:
        _void(desk, run, f"there is no key for {escape(run.provider)} where the bot runs.")
    elif last.choice == "adopt":
        _adopt(desk, run, trainer, last)
    else:
        _retry(desk, run, trainer, words)


def _adopt(desk: Desk, run: Run, trainer: Trainer, word: Word) -> None:
    try:
        job = trainer.job(str(word.job_id))
    except Refused as refused:
        _void(desk, run, escape(str(refused)))
        return
    plan, has_key = plan_from_json(run.plan), job_carries(job, run.key)
    problem = _not_its(desk, run, plan, job) or (None if has_key else _unlike(trainer, run, plan, job))
    if problem:
        _void(desk, run, problem)
        return
    known = (
        "It carries our key."
        if has_key
        else "It doesn't carry our key; its settings and its file are the plan's."
    )
    _over(desk, run, f"Job {escape(job.id)} is taken over. {known}", job)


def _not_its(desk: Desk, run: Run, plan: Plan, job: Job) -> str | None:
    """Why this job can't be the run's."""
    name, theirs = f"job {escape(job.id)}", job.metadata.get(KEY)
    if theirs not in (None, run.key):
        return f"{name} carries the key of something else that we asked for, {escape(str(theirs))}."
    other = desk.store.runs.with_job(job.id)
    if other is not None and other.id != run.id:
        return f"{name} is that of run {other.id}."
    if job.model != plan.base_model:
        return f"{name} trains {escape(job.model)}, and the plan says {escape(plan.base_model)}."
    if job.created_at < run.created_at - CLOCKS_DIFFER_S:
        return f"{name} was created before this run was asked for."
    return None


def _unlike(trainer: Trainer, run: Run, plan: Plan, job: Job) -> str | None:
    """In what a job without our key differs from the plan that was approved. TrainerError: it can't be seen now."""
    name = f"job {escape(job.id)} doesn't carry our key, and"
    planned = sent_hyperparameters(trainer.provider, dict(plan.hyperparameters) | limits_of(plan))
    for setting, value in planned.items():
        if job.hyperparameters.get(setting) != value:
            theirs = escape(str(job.hyperparameters.get(setting, "not said")))
            return f"{name} its {escape(setting)} is {theirs}, where the plan says {escape(str(value))}."
    sha256 = plan.kept_back.fitted_sha256 if plan.kept_back else plan.train_sha256
    file = job.training_file
    if file is None or (file != run.file_id and not trainer.has_content(file, sha256)):
        return f"{name} it can't be seen to train on the plan's rows."
    return None


def _retry(desk: Desk, run: Run, trainer: Trainer, words: list[Word]) -> None:
    try:
        job = _there(trainer, run)
    except Refused as refused:
        _void(desk, run, f"the job can't be looked for. {escape(str(refused))}")
        return
    if job:
        _over(desk, run, f"Job {escape(job.id)} was found there and is taken over, not created again.", job)
        return
    said = f"It is tried again, as {_people(words)} decided: looked for during twelve minutes, then created."
    now = desk.clock()
    desk.waits.since(now)
    with desk.store.transaction():
        moved = desk.store.runs.move(run, "creating", now=now, error=None, job_id=None)
        if moved:
            _conclude(desk, run, moved, "tried again", said)


def _give_up(desk: Desk, run: Run, trainer: Trainer | None, words: list[Word]) -> None:
    job, seen = None, "No job was found there."
    try:
        job = _there(trainer, run) if trainer else None
    except Refused as refused:
        seen = f"Whether a job is there could not be seen: {escape(str(refused))}"
    except TrainerError as trouble:
        if desk.clock() - words[-1].at < GIVE_UP_UNSEEN_S:
            raise
        seen = f"Whether a job is there could not be seen for an hour: {escape(str(trouble))}"
    if job:
        said = f"Job {escape(job.id)} was found there. It is cancelled now, and what it has cost is settled."
        _over(desk, run, said, job, cancel_asked_by=words[-1].person)
        return
    said = f"Given up by {_people(words)}. {seen}"
    with desk.store.transaction():
        telling.doubt_over(desk, run, desk.store.doubts.of(run), said)
        desk.store.doubts.conclude(run, "carried out")
        training.end(desk, run, "cancelled", said)


def _there(trainer: Trainer, run: Run) -> Job | None:
    """The job of its key; else the one whose id we had, unless that is gone."""
    jobs = trainer.find_jobs(run.key)
    if jobs or run.job_id is None:
        return jobs[0] if jobs else None
    try:
        return trainer.job(run.job_id)
    except Refused as refused:
        if refused.is_missing:
            return None
        raise


def _over(
    desk: Desk,
    run: Run,
    said: str,
    job: Job,
    who: str = "finetune",
    *,
    cancel_asked_by: str | None = None,
) -> bool:
    now = desk.clock()
    changes = {"job_id": job.id, "error": None, "progress": None, "cancel_asked_by": cancel_asked_by}
    with desk.store.transaction():
        moved = desk.store.runs.move(run, "training", now=now, **changes)
        if moved:
            _conclude(desk, run, moved, "adopted", said, who)
    return moved is not None


def _conclude(desk: Desk, before: Run, after: Run, action: str, said: str, who: str = "finetune") -> None:
    _audit(desk, after, who, action, said)
    telling.doubt_over(desk, before, desk.store.doubts.of(before), said)
    desk.store.doubts.conclude(before, "carried out")
    telling.progress(desk, after)


def _void(desk: Desk, run: Run, why: str) -> None:
    """What was said can't be carried out; everybody may decide anew."""
    with desk.store.transaction():
        _audit(desk, run, "finetune", "not carried out", why)
        desk.store.doubts.conclude(run, why)
        telling.doubt(desk, run, desk.store.doubts.of(run))


def _people(words: list[Word]) -> str:
    return " and ".join(f"<@{one}>" for one in dict.fromkeys(word.person for word in words))


def _audit(desk: Desk, run: Run, who: str, action: str, detail: str) -> None:
    desk.store.audit.add(at=desk.clock(), who=who, action=action, subject=f"run {run.id}", detail=detail)
