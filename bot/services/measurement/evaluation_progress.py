"""One step of a comparison: writing the questions in a worker, asking them through the engine, adding up their cost,
storing and showing the progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bot.context import AppContext
from bot.rules.budgets import max_evaluation_micros
from bot.services.datasets.data_policy import Forbidden, Unsure
from bot.services.datasets.dataset_worker import SEED
from bot.services.evidence import evaluation_worker, judge_worker
from bot.services.evidence.evaluation_worker import CandidateKeys
from bot.services.evidence.measured_candidates import folder_of
from bot.services.measurement import evaluation_engine, measurements, prompt_search_worker, receivers
from bot.services.measurement.evaluation_engine import Evaluation
from bot.values.evaluations import ComparisonPlan, ComparisonProgress
from storage.records import Measurement
from trainers.evaluation.results import Candidate


@dataclass(frozen=True)
class ComparisonStep:
    """An open comparison at a tick. `measurement` is the stored row; `plan` and `progress` are up to date."""

    context: AppContext
    measurement: Measurement
    plan: ComparisonPlan
    progress: ComparisonProgress

    @property
    def owner(self) -> str:
        return f"m{self.measurement.id}"

    @property
    def folder(self) -> Path:
        return folder_of(self.context, self.measurement)

    def with_progress(self, progress: ComparisonProgress) -> ComparisonStep:
        return replace(self, progress=progress)

    def load_keys(self) -> Mapping[Candidate, CandidateKeys] | None:
        """Returns the keys of each candidate's questions, None while a worker writes them. If the folder was lost they
        are written again: the same plan gives the same questions."""
        work = f"prepare {self.owner}"
        if not self.context.workers.has(work):  # what a worker is still writing is not read
            keys = evaluation_worker.read_keys(self.folder)
            if keys:
                return keys
        return self._write_questions(work)

    def rewrite_keys(self) -> Mapping[Candidate, CandidateKeys] | None:
        """Writes the questions of a plan that has changed. Returns their keys, None while a worker writes them."""
        return self._write_questions(f"prepare {self.owner} again")

    def evaluation(self, keys: Mapping[Candidate, CandidateKeys]) -> Evaluation:
        # They are read only if the engine has something to ask.
        questions = partial(evaluation_worker.read_questions, self.folder, self.plan)
        answer_keys = evaluation_worker.keys_by_candidate(keys)
        return Evaluation(self.owner, answer_keys, questions)

    def ask(self, evaluation: Evaluation, keys: frozenset[str]) -> None:
        """Asks these questions if the rows may leave. If that is unknown, as before a scan, asks nothing for now."""
        match receivers.egress_refusal(self.context, self.measurement):
            case None:
                evaluation_engine.ask(self.context, evaluation, keys)
            case Forbidden(reason):
                self.fail(reason)
            case Unsure():
                pass

    def save(self) -> None:
        """Stores the progress and the plan, and updates the card, if anything has changed."""
        measurement = self.measurement
        plan = ComparisonPlan.from_json(measurement.plan)
        progress = ComparisonProgress.from_json(measurement.progress)
        if self.plan == plan and self.progress == progress:
            return
        changes: dict[str, str | int] = {"progress": self.progress.to_json()}
        if self.plan != plan:
            changes["plan"] = self.plan.to_json()
        booked = self.progress.booked_micros
        if booked > measurement.reserved_micros:
            changes["reserved_micros"] = booked  # budgets never see less than was spent
        now = self.context.clock()
        measurements_stored = self.context.store.measurements
        with self.context.store.transaction():
            # `tries=0`: only errors in a row make a measurement fail.
            moved = measurements_stored.move(measurement, measurement.state, now=now, tries=0, **changes)
            if moved:
                measurements.show(self.context, moved)

    def fail(self, why: str) -> None:
        """Ends the comparison without a result; questions that were asked are booked."""
        spent = self.stop_and_book()
        measurements.end(self.context, self.measurement, "failed", why, actual_micros=spent)

    def stop_and_book(self) -> int:
        """Stops asking. Returns what counts in the budgets, in micro-dollars."""
        return self.stop() + self.progress.lost_micros

    def stop(self) -> int:
        """Stops asking. Returns the cost in micro-dollars, including questions under way, which will still be
        billed."""
        under_way = self.context.llm.drop(self.owner)
        return self.spent_micros(under_way)

    def spent_micros(self, under_way: frozenset[str] = frozenset()) -> int:
        """Returns the cost in micro-dollars, including the judge's answers and those of a search. Questions that are
        `under_way` will still be billed, so they count with their maximum."""
        since = self.progress.started_at
        if since is None:
            return 0
        keys = evaluation_worker.read_keys(self.folder)
        if keys is None:  # the folder was lost, as on a machine that a backup was restored on
            return self.progress.spent_micros
        answered = self.context.store.answers.answered(sorted(under_way))
        unanswered = under_way - answered
        micros = self._spent_on(keys, since, unanswered)
        micros += self._spent_on_search(since, unanswered)
        if self.progress.shot_candidates:
            tried = evaluation_worker.read_keys(self.folder / evaluation_worker.SHOTS_FOLDER)
            if tried:
                micros += self._spent_on(tried, since, unanswered)
        if self.plan.judge:
            micros += self._spent_on_judge(since, unanswered)
        return micros

    def _spent_on(
        self, keys: Mapping[Candidate, CandidateKeys], since: float, unanswered: frozenset[str]
    ) -> int:
        prices = self.plan.price_of
        answer_keys = evaluation_worker.keys_by_candidate(keys)
        all_keys = {key for its_keys in answer_keys.values() for key in its_keys}
        settled = all_keys - unanswered
        most = evaluation_worker.plan_max_tokens(self.plan)
        spent = evaluation_engine.spent_micros(self.context, prices, answer_keys, since)
        under_way = max_evaluation_micros(prices, keys, settled, most, self.plan.thinking)
        return spent + under_way

    def _spent_on_search(self, since: float, unanswered: frozenset[str]) -> int:
        prices = self.plan.price_of
        replay = prompt_search_worker.read_replay(self.folder)
        if self.plan.search and replay:
            searched = replay.keys_of(self.plan.search)
            spent = evaluation_engine.spent_micros(self.context, prices, searched, since)
            return spent + replay.most_micros(unanswered)
        # The replay was lost with its folder, or is not written yet.
        if self.progress.search:
            return self.progress.search.spent_micros
        return 0

    def _spent_on_judge(self, since: float, unanswered: frozenset[str]) -> int:
        judge = judge_worker.candidate_of(self.plan)
        micros = 0
        for name in (judge_worker.ACCEPTABLE, judge_worker.BETTER):
            questions = judge_worker.read_questions(self.folder, name)
            if questions is None:
                continue
            keys = {judge: questions.priced.keys}
            settled = questions.key_set - unanswered
            micros += evaluation_engine.spent_micros(self.context, self.plan.price_of, keys, since)
            micros += judge_worker.max_micros(self.plan, questions.priced, settled)
        return micros

    def _write_questions(self, work: str) -> Mapping[Candidate, CandidateKeys] | None:
        context = self.context
        files = context.settings.files
        return context.workers.poll(work, evaluation_worker.prepare, self.plan, files, self.folder, SEED)


def load_step(context: AppContext, measurement: Measurement) -> ComparisonStep:
    """Returns the step of a comparison with its stored plan and progress, and what lost answers may have cost until
    now."""
    plan = ComparisonPlan.from_json(measurement.plan)
    lost = evaluation_engine.lost_micros(context, plan.price_of, f"m{measurement.id}")
    stored = ComparisonProgress.from_json(measurement.progress)
    progress = replace(stored, lost_micros=lost)
    return ComparisonStep(context, measurement, plan, progress)
