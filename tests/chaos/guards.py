"""The guards of money and trust as mutants: each guard's text, what replaces it, and the test that must then fail.

A text that doesn't occur exactly once in its file is an error, so anyone who moves a guard moves its mutant, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


class LostGuard(Exception):
    """A mutant no longer fits the code."""


@dataclass(frozen=True)
class Guard:
    """`test` has pytest's arguments: it must fail with `mutant` in place of `text`."""

    name: str
    file: str
    text: str
    mutant: str
    test: str

    def removed_from(self, root: Path) -> str:
        """Returns the file's content without the guard. Raises LostGuard."""
        content = (root / self.file).read_text(encoding="utf-8")
        if content.count(self.text) != 1:
            raise LostGuard(
                f"The text of the guard {self.name!r} should occur once in {self.file}, but occurs "
                f"{content.count(self.text)} times. Update tests/chaos/guards.py."
            )
        return content.replace(self.text, self.mutant)


JOBS = "bot/services/common/provider_jobs.py"
TRAINING = "bot/services/training/training.py"
APPROVING = "bot/services/decisions/approvals.py"
RULES = "bot/rules/permissions.py"
CLIENT = "trainers/client/client.py"
OUTBOX = "storage/messages.py"
PROVIDER = "tests/bot/training/test_story_provider_faults.py"
APPROVAL = "tests/bot/decisions/test_story_approval.py"
DECIDING = "tests/rules/test_permissions.py"
TRACES = "tests/bot/slack/test_lost_answers.py"
FREEZE = "tests/bot/decisions/test_story_freeze.py"
NOTICES = "tests/bot/slack/test_outbox_sender.py"
PROMOTE = "tests/bot/models/test_story_promote.py"
USE = "tests/bot/models/test_story_use_candidate.py"
DOUBT = "tests/bot/training/test_story_interventions.py"
POLICY = "tests/bot/decisions/test_story_policy.py"
COMPARISON = "tests/bot/measurement/test_story_comparison.py"
CHANNELS = "tests/bot/datasets/test_story_private_channels.py"
SCANNING = "tests/bot/datasets/test_story_sensitive_data.py"
ERASURE = "tests/bot/datasets/test_story_deletion.py"
HOSTING = "tests/bot/models/test_story_hosting.py"
DISTILLING = "tests/bot/measurement/test_story_distillation.py"
SEALED = "tests/bot/datasets/test_story_sealed.py"
SHARING = "bot/rules/data_policy.py"
SLOW = "tests/bot/training/test_story_slow_provider.py"
IN_WORDS = "tests/bot/slack/test_story_plain_questions.py"
PLAIN = "bot/services/plain_questions.py"
TRYING = "tests/bot/serving/test_story_try_budget.py"
BOUND = "tests/bot/decisions/test_story_plan_integrity.py"
DIALECTS = "tests/trainers/client/test_dialects.py"
TOGETHER_UPLOADS = "tests/trainers/client/test_together_uploads.py"
REQUESTS = "tests/trainers/client/test_requests.py"
UNASKED = "tests/bot/monitoring/test_unasked.py"
BILL = "tests/bot/serving/test_story_vendor_bill.py"
BILLED = "tests/rules/training/test_vendor_bills.py"
BILL_RULES = "bot/rules/training/vendor_bills.py"
HERE = "tests/chaos/test_guards.py"

GUARDS = (
    # A job is created once.
    Guard(
        "look before create",
        JOBS,
        "        job = _find_job(trainer, attempt.key)\n        if job is None and may_create",
        "        job = None\n        if job is None and may_create",
        f"{PROVIDER}::test_a_job_whose_create_lost_its_answer_is_adopted",
    ),
    Guard(
        "SETTLE before a second create",
        JOBS,
        "    is_settled = not attempt.is_sent or attempt.waited_s >= SETTLE_S",
        "    is_settled = True",
        f"{PROVIDER}::test_a_lost_create_is_repeated_only_after_its_job_would_have_been_listed",
    ),
    Guard(
        "SETTLE before a cancelled run is free",
        JOBS,
        "    if job is None and attempt.waited_s < SETTLE_S:  # it may not be listed yet",
        "    if False:",
        "tests/bot/training/test_story_cancel.py::test_a_lost_create_is_not_repeated_for_a_cancelled_run",
    ),
    Guard(
        "intent before create",
        TRAINING,
        '        intent = context.store.runs.move(run, "creating", now=now, **changes)',
        "        intent = run",
        "tests/bot/training/test_story_restarts.py::test_a_restart_during_an_uncertain_create_makes_no_second_job",
    ),
    Guard(
        "max_retries=0",
        "trainers/client/calls.py",
        "            max_retries=0,",
        "            max_retries=2,",
        f"{REQUESTS}::test_a_fault_of_create_has_its_error_and_only_one_post",
    ),
    Guard(
        "a job at Fireworks has an id of our key",
        "trainers/client/dialects/fireworks.py",
        '    return f"ft-{uploads.key_mark(key)}"',
        '    return "ft-" + __import__("secrets").token_hex(8)',
        f"{DIALECTS}::test_a_second_create_of_the_same_id_gives_the_job_that_is_there",
    ),
    Guard(
        "a job at Together has our mark in its suffix",
        "trainers/client/dialects/together.py",
        '            "suffix": payloads.fit_suffix(self.provider, spec.suffix, spec.key),',
        '            "suffix": spec.suffix,',
        f"{DIALECTS}::test_togethers_suffix_holds_our_mark_in_40_characters",
    ),
    Guard(
        "the address for a file at Together gets no key",
        "trainers/client/dialects/together_uploads.py",
        'content=file, options={"headers": headers}',
        "content=file, options={}",
        f"{TOGETHER_UPLOADS}::test_the_address_gets_the_bytes_and_nothing_that_names_us",
    ),
    Guard(
        "a file at Together is checked before its use",
        "trainers/client/dialects/together_uploads.py",
        "            checked = self._request_check(file_id, action)\n",
        "            checked = row\n",
        f"{TOGETHER_UPLOADS}::test_an_upload_that_was_cut_off_is_found_again_and_ends_as_one_usable_file",
    ),
    Guard(
        "a file that the vendor says it has is compared",
        "trainers/client/dialects/together_uploads.py",
        "            if not self._has_bytes(row, name, sha256, uploads.file_size(path, action)):\n",
        "            if False:\n",
        f"{TOGETHER_UPLOADS}::test_a_file_that_the_vendor_says_it_has_is_refused_if_it_is_another",
    ),
    Guard(
        "a model is looked for before it is loaded",
        "trainers/deployments/fireworks_serverless.py",
        '            if row.get("model") == model:\n',
        "            if False:\n",
        "tests/trainers/providers/test_serverless_models.py::test_a_load_whose_answer_was_lost_is_not_requested_again",
    ),
    Guard(
        "a signed link gets no key",
        "trainers/client/dialects/fireworks.py",
        'options={"headers": unsigned}',
        "options={}",
        f"{DIALECTS}::test_the_losses_of_each_step_are_read",
    ),
    Guard(
        "duplicate jobs are cancelled",
        JOBS,
        "                trainer.cancel(extra.id)\n",
        "                pass\n",
        f"{HERE}::test_of_two_jobs_with_one_key_the_older_is_adopted_and_the_other_cancelled",
    ),
    Guard(
        "a refused look doesn't refuse the create",
        JOBS,
        "        if attempt.is_sent:  # the trainer",
        "        if False:  # the trainer",
        f"{PROVIDER}::test_a_refused_look_for_an_uncertain_job_keeps_the_money_reserved",
    ),
    Guard(
        "a person after five unclear creates",
        JOBS,
        "and attempt.tries < MAX_CREATES:",
        "and True:",
        f"{PROVIDER}::test_creates_without_a_clear_answer_need_a_person_and_stay_reserved",
    ),
    Guard(
        "an adopted job is not another run's",
        "bot/services/training/interventions.py",
        "    if other is not None and other.id != run.id:",
        "    if False:",
        f"{DOUBT}::test_a_job_without_a_key_that_belongs_to_another_run_is_not_adopted",
    ),
    Guard(
        "every page of a look",
        CLIENT,
        "            if not rows or not more:\n                return",
        "            return",
        f"{REQUESTS}::test_duplicates_come_oldest_first_from_every_page",
    ),
    Guard(
        "metadata compared on our side",
        CLIENT,
        "if read_key(row) == key:",
        "if True:",
        f"{REQUESTS}::test_jobs_are_compared_on_our_side_too",
    ),
    Guard(
        "a job is known by the file that was sent only for it",
        CLIENT,
        "read_key = key_reader([key], marks)",
        "read_key = key_reader([key])",
        f"{REQUESTS}::test_a_job_whose_suffix_does_not_come_back_is_known_by_its_file",
    ),
    Guard(
        "a file is looked for before it is sent",
        CLIENT,
        "if earlier is not None:",
        "if False:",
        f"{REQUESTS}::test_an_upload_that_ended_unclearly_is_found_again",
    ),
    Guard(
        "one writer moves a run",
        "storage/database.py",
        "SET {names} WHERE id = ? AND state = ? RETURNING",
        "SET {names} WHERE id = ? AND ? != '' RETURNING",
        "tests/storage/test_runs.py::test_a_run_is_moved_by_the_first_of_two_writers",
    ),
    Guard(
        "one bot on a database",
        "storage/database.py",
        "        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "        pass\n",
        "tests/storage/test_database.py::test_a_second_process_is_refused_with_the_file_and_the_fix",
    ),
    # Who decides, and about what.
    Guard(
        "approvers only",
        RULES,
        "    if person.id in rules.named(action):",
        "    if True:",
        f"{DECIDING}::test_by_default_members_take_part_and_approvers_decide",
    ),
    Guard(
        "no approval of one's own run",
        RULES,
        "    if person.id == request.requester and",
        "    if False and",
        "tests/bot/test_story_main_path.py::test_the_requester_who_is_an_approver_cannot_approve",
    ),
    Guard(
        "no approval of one's own data",
        RULES,
        "    if person.id == request.uploader:",
        "    if False:",
        f"{DECIDING}::test_the_requester_and_the_uploader_learn_why_they_may_not_approve",
    ),
    Guard(
        "full members only",
        RULES,
        "    if person.is_guest:",
        "    if False:",
        f"{DECIDING}::test_anybody_but_a_full_member_may_do_nothing",
    ),
    Guard(
        "a failed lookup is a no",
        RULES,
        'RuleVerdict(False, FULL_MEMBERS, "nobody known")',
        'RuleVerdict(True, FULL_MEMBERS, "nobody known")',
        f"{DECIDING}::test_anybody_but_a_full_member_may_do_nothing",
    ),
    Guard(
        "an invited organisation counts as present",
        "bot/slack/users.py",
        ', "is_pending_ext_shared", "pending_shared"',
        "",
        f"{POLICY}::test_a_channel_that_another_organisation_is_invited_to_counts_as_shared",
    ),
    Guard(
        "a quorum counts people who may still approve",
        RULES,
        'len(rules.filter_entitled("approve", approved_by)) >= tier.approvers',
        "len(set(approved_by)) >= tier.approvers",
        f"{DECIDING}::test_a_quorum_counts_only_people_who_may_still_approve",
    ),
    Guard(
        "one decision per person",
        "storage/runs.py",
        'self._db.insert_once("approvals", vars(approval)) is not None',
        'self._db.insert_once("approvals", vars(approval)) is None or True',
        "tests/storage/test_runs.py::test_a_person_decides_once_a_run",
    ),
    Guard(
        "the hash at the click",
        APPROVING,
        "    if plan_hash(plan) != hash_in_button:",
        "    if False:",
        f"{APPROVAL}::test_a_plan_that_was_edited_in_the_database_cannot_be_approved",
    ),
    Guard(
        "the hash at the create",
        TRAINING,
        "    if plan_hash(plan) != run.plan_hash:",
        "    if False:",
        f"{APPROVAL}::test_a_plan_that_was_edited_after_the_approval_is_not_carried_out",
    ),
    Guard(
        "approvals are counted again before the create",
        TRAINING,
        "        lost = approvals.revalidate(context, run)",
        "        lost = None",
        f"{POLICY}::test_an_approver_who_left_the_group_before_the_create_voids_the_approval",
    ),
    Guard(
        "data rules when the quorum is lowered",
        APPROVING,
        "        if not forbidden and not over_budget:",
        "        if not over_budget:",
        f"{POLICY}::test_a_lowered_quorum_starts_a_run_only_within_the_budget_and_the_data_rules",
    ),
    Guard(
        "expiry",
        "bot/rules/permissions.py",
        "    return now - request.asked_at > policy.expires_s",
        "    return False",
        f"{APPROVAL}::test_a_plan_expires_after_a_day",
    ),
    Guard(
        "expiry at the click",
        APPROVING,
        "    if is_expired(request, context.clock(), context.settings.policy):",
        "    if False:",
        f"{HERE}::test_a_plan_that_expired_since_the_last_tick_cannot_be_approved",
    ),
    Guard(
        "a reason where the verdict is not go",
        APPROVING,
        "        if not plan.is_advised and not has_enough_words(why):",
        "        if False:",
        f"{APPROVAL}::test_an_approval_without_a_reason_does_not_count_however_it_is_sent",
    ),
    Guard(
        "one live plan of what is tried",
        "bot/services/decisions/superseded_plans.py",
        "    for run in context.store.runs.open():",
        "    for run in list[Run]():",
        "tests/bot/decisions/test_story_superseded_plans.py::test_approving_a_replaced_plan_starts_nothing",
    ),
    Guard(
        "plans that try something else stay",
        "bot/services/decisions/superseded_plans.py",
        "        if tries_the_same(plan_from_json(run.plan), plan):",
        "        if plan:",
        "tests/bot/decisions/test_story_superseded_plans.py::test_two_plans_wait_side_by_side_each_with_its_own_approval",
    ),
    Guard(
        "held-out rows that were shown count as read",
        "bot/services/evidence/read_rows.py",
        "        if shown.at < made_at:",
        "        if False:",
        "tests/bot/evidence/test_story_looks.py::test_wrong_rows_are_worn_by_reading_them_and_training_rows_are_not",
    ),
    Guard(
        "wrong rows only where rows may be shown",
        "bot/services/measurement/wrong_rows.py",
        '    if delivery == "thread" or delivery == "direct":',
        '    if place != "thread" and place != "direct":\n        place = "direct"\n    if True:',
        "tests/bot/evidence/test_story_looks.py::test_wrong_rows_of_a_public_dataset_come_to_its_uploader_alone",
    ),
    # Money.
    Guard(
        "the month's budget",
        APPROVING,
        "        if over_budget:\n            return Refusal(over_budget)",
        "",
        f"{APPROVAL}::test_two_plans_cannot_spend_the_same_money",
    ),
    Guard(
        "one transaction for check and reservation",
        APPROVING,
        "    with context.store.transaction():\n        waiting = _find_approvable(context, hash_in_button, caller)",
        "    if True:\n        waiting = _find_approvable(context, hash_in_button, caller)",
        "tests/bot/decisions/test_story_budget_race.py::test_64_approvals_at_once_never_exceed_the_budget_of_team_channel_or_person",
    ),
    Guard(
        "transactions take turns",
        "storage/database.py",
        '        with self._turn():\n            connection.execute("BEGIN IMMEDIATE")',
        '        if True:\n            connection.execute("BEGIN")',
        "tests/storage/test_database.py::test_a_read_and_a_write_in_one_transaction_lose_no_update",
    ),
    Guard(
        "money is booked once",
        "storage/schemas.py",
        "    at REAL NOT NULL,\n    UNIQUE (run_id, kind)\n",
        "    at REAL NOT NULL,\n    UNIQUE (run_id, kind, id)\n",
        "tests/storage/test_runs.py::test_money_is_booked_once_a_run_and_kind",
    ),
    Guard(
        "the month's budget when a measurement is confirmed",
        "bot/services/measurement/measurements.py",
        "        if units.month_of(now) != measurement.month:",
        "        if False:",
        f"{COMPARISON}::test_agreeing_late_is_refused_if_the_new_month_has_no_money_left",
    ),
    Guard(
        "the approved maximum",
        TRAINING,
        "    if run.cancel_asked_by or overrun_text(run):",
        "    if run.cancel_asked_by:",
        "tests/bot/training/test_story_cost_overrun.py::test_a_job_beyond_its_maximum_is_cancelled_reported_and_settled",
    ),
    Guard(
        "synchronous=FULL",
        "storage/database.py",
        '        "synchronous=FULL",',
        '        "synchronous=OFF",',
        "tests/storage/test_database.py::test_every_threads_connection_has_the_safe_pragmas",
    ),
    Guard(
        "the month's budget when the quorum is lowered",
        APPROVING,
        "        if not forbidden and not over_budget:",
        "        if not forbidden:",
        f"{POLICY}::test_a_lowered_quorum_starts_a_run_only_within_the_budget_and_the_data_rules",
    ),
    Guard(
        "a lost answer that may be billed counts",
        "bot/llm_client.py",
        "            if trouble.may_be_billed:\n                self._mark_lost(sent)",
        "            if False:\n                self._mark_lost(sent)",
        "tests/bot/measurement/test_llm_client.py::test_a_lost_answer_counts_if_it_may_be_billed",
    ),
    Guard(
        "what a killed bot was waiting for counts",
        "storage/evaluations.py",
        "SET is_lost = 1 WHERE is_lost = 0",
        "SET is_lost = 1 WHERE is_lost = 2",
        "tests/bot/measurement/test_llm_client.py::test_a_kill_costs_at_most_the_open_questions",
    ),
    # Freeze.
    Guard(
        "freeze",
        TRAINING,
        "    if freeze_scope.run_freeze(context, run):\n        provider_jobs.look_without_creating(",
        "    if False:\n        provider_jobs.look_without_creating(",
        f"{HERE}::test_during_a_freeze_no_file_is_sent_to_the_provider",
    ),
    Guard(
        "freeze in the intent's transaction",
        TRAINING,
        "        if latest is None or latest.cancel_asked_by or freeze_scope.run_freeze(context, run):",
        "        if latest is None or latest.cancel_asked_by:",
        f"{FREEZE}::test_a_freeze_between_the_look_and_the_intent_stops_the_create",
    ),
    Guard(
        "cancel in the intent's transaction",
        TRAINING,
        "        if latest is None or latest.cancel_asked_by or freeze_scope.run_freeze(context, run):",
        "        if latest is None or freeze_scope.run_freeze(context, run):",
        f"{BOUND}::test_a_cancel_during_the_upload_leaves_no_job",
    ),
    Guard(
        "the month's budget at the create",
        TRAINING,
        "    too_dear = budgets.refusal_in_a_new_month(context, run)",
        "    too_dear = None",
        f"{BOUND}::test_a_run_approved_in_november_waits_for_room_in_decembers_budget",
    ),
    Guard(
        "questions cost no more than the budget",
        "bot/services/serving/questions.py",
        "        if too_dear:",
        "        if False:",
        f"{TRYING}::test_no_question_is_asked_beyond_the_teams_a_channels_or_a_persons_budget",
    ),
    Guard(
        "a question in words stays below the day's cap",
        PLAIN,
        "    if new.reserved_micros == 0 or spent + new.reserved_micros <= cap:",
        "    if True:",
        f"{IN_WORDS}::test_over_the_days_cap_and_over_a_budget_the_words_answer",
    ),
    Guard(
        "a question in words is sent once",
        PLAIN,
        "    context.store.plain_questions.mark_sent(question, now=context.clock())",
        "    pass",
        f"{IN_WORDS}::test_a_kill_while_a_model_reads_counts_as_paid_and_sends_nothing_again",
    ),
    Guard(
        "a question in words goes where its channel's data may go",
        "bot/services/datasets/data_policy.py",
        "    if _may_go(context, data, row):",
        "    if True:",
        f"{IN_WORDS}::test_words_leave_only_where_the_policy_lets_data_of_the_channel_go",
    ),
    Guard(
        "a question in words brings only its channel's names",
        PLAIN,
        "    here = [name for name, owner in owners.items() if owner == channel]",
        "    here = list(owners)",
        f"{IN_WORDS}::test_sixty_questions_cost_only_their_reading_and_send_no_row_and_no_other_channels_names",
    ),
    Guard(
        "a question in words runs at once only what reads",
        "bot/slack/question_answers.py",
        "        if line.command in AT_ONCE and line.is_complete:",
        "        if line.is_complete:",
        f"{IN_WORDS}::test_a_command_that_changes_something_waits_for_a_click_and_opens_its_own_card",
    ),
    Guard(
        "a question in words names no hidden dataset",
        "bot/slack/question_answers.py",
        "        if dataset and dataset not in visible:",
        "        if False:",
        f"{IN_WORDS}::test_what_isnt_a_command_for_this_person_is_answered_by_words",
    ),
    Guard(
        "a question in words brings no reason of a model's",
        "bot/questions/model_prompt.py",
        "    return tuple(key for key in command.options if key not in NEVER_OPTIONS)",
        "    return tuple(command.options)",
        f"{IN_WORDS}::test_what_isnt_a_command_for_this_person_is_answered_by_words",
    ),
    Guard(
        "a question without a clear answer is not repeated",
        "bot/llm_client.py",
        "        if waiting.question.is_once and not trouble.is_rate_limit:",
        "        if False:",
        f"{TRYING}::test_a_question_without_a_clear_answer_counts_at_its_maximum_and_is_not_sent_again",
    ),
    Guard(
        "SETTLE by a monotonic clock",
        "bot/context.py",
        "        return before + now - known_at",
        "        return self._clock() - at",
        "tests/bot/training/test_story_clock_changes.py::test_a_clock_set_forward_during_an_uncertain_create_makes_no_second_job",
    ),
    Guard(
        "the destination that was approved",
        TRAINING,
        "    other = plans.destination_change(context, plan)",
        "    other = None",
        f"{BOUND}::test_an_address_that_changed_after_the_approval_gets_neither_file_nor_job",
    ),
    Guard(
        "the engine that was approved",
        "bot/services/decisions/plans.py",
        "    if before.engine is not None and before.engine != now.engine:",
        "    if False:",
        f"{BOUND}::test_a_changed_engine_version_is_noticed",
    ),
    Guard(
        "no plan where training is closed to us",
        "bot/services/decisions/plans.py",
        "        if trainer.has_jobs(ELIGIBILITY_TIMEOUT_S):",
        "        if True:",
        f"{BOUND}::test_an_account_that_never_trained_at_a_closed_provider_gets_no_plan",
    ),
    Guard(
        "an intervention needs a second person",
        RULES,
        '    if action in ("approve", "waive", "resolve") and caller.person:',
        '    if action in ("approve", "waive") and caller.person:',
        f"{DOUBT}::test_the_requester_and_the_uploader_may_not_decide_about_an_uncertain_create",
    ),
    Guard(
        "a job without our key is compared with the plan",
        "bot/services/training/interventions.py",
        "        problem = _difference_from_plan(trainer, run, plan, job)",
        "        problem = None",
        f"{DOUBT}::test_a_job_without_our_key_is_adopted_only_with_the_plans_settings_and_file",
    ),
    Guard(
        "only the approved bytes are sent",
        "trainers/client/uploads.py",
        "        check_sha256(path, sha256)\n",
        "",
        f"{BOUND}::test_a_training_file_that_changed_after_the_approval_is_not_sent",
    ),
    Guard(
        "a file that is found is compared",
        CLIENT,
        "if is_own or self.has_content(file_id, sha256):",
        "if True:",
        f"{BOUND}::test_a_file_of_the_same_name_and_size_with_other_rows_is_not_trained_on",
    ),
    Guard(
        "only the approved held-out rows are measured on",
        "bot/services/datasets/dataset_worker.py",
        "    uploads.check_sha256(path, sha256)\n",
        "",
        f"{BOUND}::test_held_out_rows_that_changed_after_the_approval_evaluate_nothing",
    ),
    Guard(
        "unfreezing takes two people",
        "bot/rules/permissions.py",
        "UNFREEZERS = 2",
        "UNFREEZERS = 1",
        f"{FREEZE}::test_the_first_vote_to_unfreeze_is_posted_and_a_second_persons_lifts_the_freeze",
    ),
    # Machines by the hour.
    Guard(
        "a second machine of one name is stopped",
        "bot/services/models/deployments.py",
        "    for extra in running[1:]:",
        "    for extra in running[:0]:",
        f"{HOSTING}::test_cancelling_a_run_stops_its_machine",
    ),
    Guard(
        "no machine starts again beyond the day's limit",
        "bot/services/models/deployment_requests.py",
        "    if spent >= deployments.day_limit(context):",
        "    if False:",
        f"{HOSTING}::test_a_kept_machine_runs_until_the_daily_limit",
    ),
    Guard(
        "no machine starts again beyond the budget",
        "bot/services/models/deployment_requests.py",
        "    if too_dear:",
        "    if False:",
        f"{HOSTING}::test_a_machine_is_listed_in_the_terminal_until_it_is_stopped_for_lack_of_use",
    ),
    Guard(
        "only who may freeze stops a machine that nobody here started",
        "bot/services/models/orphan_deployments.py",
        '    refused = authorization.refusal(context, person, "freeze")\n',
        "    refused = None\n",
        f"{HOSTING}::test_an_unknown_machine_is_reported_once_and_stopped_by_a_click",
    ),
    # Slack.
    Guard(
        "signature and replay window",
        "bot/slack/http.py",
        "return verifier.is_valid(body, timestamp, signature)",
        "return True",
        f"{HERE}::test_unsigned_forged_and_old_requests_change_nothing",
    ),
    Guard(
        "a delivery counts once",
        "bot/slack/errors.py",
        "        if not context.store.inbox.receive(delivery, req.body, now=context.clock()):",
        "        if context.store.inbox.receive(delivery, req.body, now=context.clock()) is None:",
        f"{HERE}::test_a_repeated_delivery_does_nothing",
    ),
    Guard(
        "a message goes into the outbox once",
        OUTBOX,
        "                self._add(draft.kind, draft, draft.dedupe, now)",
        "                self._add(draft.kind, draft, None, now)",
        "tests/storage/test_outbox.py::test_a_second_draft_of_the_same_message_does_nothing",
    ),
    Guard(
        "a message and its fact in one transaction",
        OUTBOX,
        "        with self._db.immediate():\n            if draft.dedupe",
        "        if True:\n            self._db.close_connection()\n            if draft.dedupe",
        "tests/storage/test_outbox.py::test_a_draft_is_rolled_back_with_its_transaction",
    ),
    Guard(
        "an edit that was replaced while being sent stays due",
        OUTBOX,
        'DELETE FROM outbox WHERE id = ? AND body = ?"',
        "DELETE FROM outbox WHERE id = ? AND body != ? || '!'\"",
        "tests/storage/test_outbox.py::test_an_edit_that_is_replaced_while_it_is_sent_stays_due",
    ),
    Guard(
        "the SDK sends no post again",
        "bot/slack/api.py",
        "timeout=timeout_s, retry_handlers=[])",
        "timeout=timeout_s)",
        f"{HERE}::test_the_sdk_does_not_repeat_a_post_whose_answer_was_cut_off",
    ),
    Guard(
        "a post may still be on its way",
        "bot/outbox_sender.py",
        "if look.was_allowed and look.ts is None and left_s > 0:",
        "if False:",
        f"{TRACES}::test_a_post_that_slack_shows_only_after_the_search_is_posted_once",
    ),
    Guard(
        "an internal error of Slack is no refusal",
        "bot/outbox_sender.py",
        ' or error.response.get("error") in UNCLEAR:',
        ":",
        f"{TRACES}::test_a_post_whose_answer_is_lost_is_posted_once",
    ),
    Guard(
        "private messages go to no other channel",
        "bot/outbox_sender.py",
        "        if is_elsewhere and (item.private or not self._is_public(item.channel)):",
        "        if False:",
        f"{NOTICES}::test_customers_words_never_follow_a_card_into_the_fallback_channel",
    ),
    Guard(
        "a revoked token loses nothing",
        "bot/outbox_sender.py",
        "        elif code in APP_IS_LOCKED_OUT:",
        "        elif False:",
        f"{NOTICES}::test_a_revoked_token_loses_nothing_and_is_shown",
    ),
    # The audit log.
    Guard(
        "the audit log is not changed",
        "storage/schemas.py",
        "CREATE TRIGGER audit_is_append_only_update BEFORE UPDATE ON audit\n"
        "    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;\n",
        "",
        "tests/storage/test_audit.py::test_no_entry_can_be_changed_or_deleted",
    ),
    Guard(
        "each entry's hash covers the one before",
        "storage/audit.py",
        "json.dumps([previous, at, who, action, subject, detail])",
        "json.dumps([at, who, action, subject, detail])",
        "tests/storage/test_audit_verify.py::test_a_deleted_entry_is_missed "
        "tests/storage/test_audit_verify.py::test_the_altered_entry_is_reported_with_what_does_not_match "
        f"{HERE}::test_an_audit_entrys_hash_depends_on_the_entry_before",
    ),
    # Our own trainer.
    Guard(
        "one key, one job",
        "trainers/local/jobs/records.py",
        "            job_id = _id_from_key(key)",
        '            job_id = "ftjob-" + secrets.token_hex(12)',
        "tests/local/jobs/test_server_jobs.py::test_many_callers_with_one_idempotency_key_create_one_job",
    ),
    Guard(
        "the training process holds its job's lock",
        "trainers/local/job_directory.py",
        "            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        "tests/local/jobs/test_server_jobs.py::test_a_process_that_outlived_its_server_is_awaited_and_not_doubled",
    ),
    # Only one model is in use for a dataset.
    Guard(
        "a promotion replaces only the model that the person saw",
        "storage/promotions.py",
        '"UPDATE promotions SET ended_at = ? WHERE id = ? AND ended_at IS NULL", (now, promotion.id)',
        '"UPDATE promotions SET ended_at = ? WHERE dataset = ? AND ended_at IS NULL", (now, promotion.dataset)',
        "tests/storage/test_promotions.py::test_a_promotion_based_on_an_outdated_one_changes_nothing",
    ),
    Guard(
        "a promotion needs the right to promote",
        "bot/services/models/promotions.py",
        '    refusal = authorization.refusal(context, person, "promote", channel)\n'
        "    if refusal:\n        return refusal\n",
        "",
        f"{PROMOTE}::test_only_approvers_promote_and_roll_back",
    ),
    Guard(
        "a model not shown to be better needs a reason",
        "bot/services/models/promotions.py",
        "    if not objections:\n        return None\n    return Refusal(request_views",
        "    if objections is not None:\n        return None\n    return Refusal(request_views",
        f"{PROMOTE}::test_a_model_no_better_than_the_one_in_use_needs_a_reason",
    ),
    Guard(
        "a reason alone deploys nothing against the evidence",
        "bot/services/models/promotions.py",
        "    if find_objections(proof):\n        return promotion_requests.ask(context, decided)\n",
        "",
        f"{USE}::test_against_the_bar_it_takes_a_reason_and_another_person",
    ),
    Guard(
        "what is below the bar takes more than a click",
        "bot/rules/models/promotion.py",
        '    if proof.candidate.standing == "misses":\n        names.append("below_bar")\n    elif',
        "    if",
        "tests/rules/test_promotion.py::test_what_is_not_shown_to_meet_the_bar_is_objected_to",
    ),
    Guard(
        "nobody approves the deployment that they asked for",
        "bot/services/models/promotion_requests.py",
        "    return Request(request.person, uploader, request.at)",
        '    return Request("", uploader, request.at)',
        f"{USE}::test_against_the_bar_it_takes_a_reason_and_another_person",
    ),
    Guard(
        "an approval of a deployment is for what its card showed",
        "bot/services/models/promotion_requests.py",
        "        if _is_outdated(context, request, standing, proof):",
        "        if False:",
        f"{USE}::test_an_approval_is_for_what_the_card_showed",
    ),
    Guard(
        "who asked for a deployment needs the right until it is approved",
        "bot/services/models/promotion_requests.py",
        '    if authorization.refusal(context, request.person, "promote", request.channel):',
        "    if False:",
        f"{USE}::test_who_asked_needs_the_right_until_the_approval",
    ),
    Guard(
        "a deployment waits for as many approvers as the policy says",
        "bot/services/models/promotion_requests.py",
        "        if not has_quorum(_approvers(context, number), caller.rules, 0):",
        "        if False:",
        f"{USE}::test_two_approvers_are_needed_where_the_policy_says_so",
    ),
    Guard(
        "what a newer version measured is not deployed",
        "bot/services/models/promotables.py",
        "    if finished_measurements.read_evaluation(measurement) is None:\n        return Refusal(",
        "    if False:\n        return Refusal(",
        f"{USE}::test_what_cannot_be_read_or_rebuilt_is_not_deployed",
    ),
    Guard(
        "a freeze stops promotions",
        "bot/services/models/promotion_records.py",
        "        freeze = context.store.freezes.current()\n",
        "        freeze = None\n",
        f"{USE}::test_a_freeze_stops_what_the_evidence_supports_what_is_asked_for_and_its_approval",
    ),
    Guard(
        "a freeze stops requests to promote",
        "bot/services/models/promotion_requests.py",
        "        if freeze:\n            return Refusal(freeze_cards.refusal("
        'freeze, "Nothing else is deployed now"))\n        request =',
        "        request =",
        f"{USE}::test_a_freeze_stops_what_the_evidence_supports_what_is_asked_for_and_its_approval",
    ),
    Guard(
        "a freeze stops approvals of promotions",
        "bot/services/models/promotion_requests.py",
        "        if freeze:\n            return Refusal(freeze_cards.refusal("
        'freeze, "Nothing else is deployed now"))\n        decision =',
        "        decision =",
        f"{USE}::test_a_freeze_stops_what_the_evidence_supports_what_is_asked_for_and_its_approval",
    ),
    Guard(
        "a freeze stops fallbacks",
        "bot/services/serving/fallbacks.py",
        "        freeze = context.store.freezes.current()\n",
        "        freeze = None\n",
        "tests/bot/serving/test_story_fallback.py::test_a_freeze_keeps_everything_as_it_is",
    ),
    Guard(
        "only what meets the bar stands in",
        "bot/services/serving/fallbacks.py",
        "    objections = find_objections(proof)\n",
        "    objections = ()\n",
        "tests/bot/serving/test_story_fallback.py::test_what_misses_the_bar_cannot_stand_in",
    ),
    Guard(
        "sealed rows promote only for somebody who still may",
        "bot/services/models/promotions.py",
        '    refusal = authorization.refusal(context, person, "promote", measurement.channel)\n    if refusal:',
        "    refusal = None\n    if refusal:",
        f"{SEALED}::test_the_card_says_that_it_opens_sealed_rows_and_only_who_may_promote_opens_them",
    ),
    Guard(
        "a button acts only for those who may know of its dataset",
        "bot/services/common/authorization.py",
        "    if not may_act:\n        return hidden",
        "",
        f"{CHANNELS}::test_a_model_is_asked_and_deployed_only_by_those_who_are_in_its_channel_now",
    ),
    # A model labels rows.
    Guard(
        "a model labels rows only for who may upload",
        "bot/services/measurement/distillations.py",
        '    refusal = authorization.refusal(context, person, "upload", checked.dataset.owner)\n',
        "    refusal = None\n",
        f"{POLICY}::test_every_command_requires_the_rights_that_it_declares",
    ),
    Guard(
        "a model labels rows at today's price",
        "bot/services/measurement/distillations.py",
        "        prices=now.prices,\n",
        "",
        f"{DISTILLING}::test_nothing_is_asked_before_the_approval_and_cancelling_ends_it",
    ),
    Guard(
        "a teacher was measured on this version's held-out rows",
        "bot/services/evidence/measured_candidates.py",
        "    on_these_rows = [evaluation for evaluation in done if evaluation.plan.holdout_sha256 == holdout]",
        "    on_these_rows = list(done)",
        f"{DISTILLING}::test_only_a_measured_model_that_meets_the_bar_may_label",
    ),
    Guard(
        "a teacher's terms are accepted",
        "bot/services/measurement/distillations.py",
        "    if teacher.terms and not request.accepts:",
        "    if False:",
        f"{DISTILLING}::test_terms_are_shown_and_accepted_once",
    ),
    # A channel's data stays with its members.
    Guard(
        "another channel's file is no version of this dataset",
        "storage/datasets.py",
        'if last and (last["owner"] != new.channel or not new.may_add):',
        "if last and not new.may_add:",
        f"{CHANNELS}::test_a_file_of_the_same_name_from_another_channel_is_no_new_version",
    ),
    Guard(
        "only members put files into a channel",
        "bot/services/datasets/datasets.py",
        "    if is_in:\n        return None\n    if is_in is None:",
        "    if True:\n        return None\n    if is_in is None:",
        f"{CHANNELS}::test_only_a_channels_members_can_upload_to_it",
    ),
    Guard(
        "a rule for each channel that rows came from",
        "bot/rules/data_policy.py",
        "        if not any(rule.covers(rows) for rule in policy.data):\n            return False\n",
        "",
        "tests/rules/test_data_policy.py::test_rows_of_several_channels_need_the_rules_of_each",
    ),
    Guard(
        "a private channel's datasets are its members'",
        SHARING,
        "    return home.is_private is False or home.is_member is True",
        "    return True",
        f"{CHANNELS}::test_what_belongs_to_a_private_channel_does_not_exist_for_others",
    ),
    Guard(
        "a private channel's dataset is deleted only by its members",
        "bot/services/dataset_deletion.py",
        "    refusal = authorization.dataset_refusal(context, command.dataset, person, channel)\n",
        "    refusal = None\n",
        f"{CHANNELS}::test_an_approver_from_outside_can_cancel_a_run_by_its_number_and_delete_nothing",
    ),
    Guard(
        "an answer is judged only by the person who asked",
        "bot/services/serving/tried_answers.py",
        "    if tried is None or tried.person != person:",
        "    if tried is None:",
        "tests/bot/serving/test_story_tried_answers.py::test_a_better_answer_is_its_askers_differs_and_holds_no_secret",
    ),
    Guard(
        "unknown membership is a no",
        SHARING,
        "    return home.is_private is False or home.is_member is True",
        "    return home.is_private is False or home.is_member is not False",
        f"{CHANNELS}::test_a_channel_whose_members_slack_does_not_name_is_hidden_from_outside",
    ),
    Guard(
        "rows are shown only in their own channel",
        SHARING,
        "    if channel != owner or set(sources) != {owner}:\n        return False\n",
        "",
        f"{CHANNELS}::test_rows_of_a_private_channel_are_not_shown_in_another",
    ),
    Guard(
        "keys stay out of children's environment",
        "trainers/host.py",
        "        return is_listed and not _IS_KEY.search(name)",
        "        return bool(name)",
        "tests/bot/operations/test_child_environment.py::test_no_key_of_slack_or_a_vendor_is_in_a_childs_environment",
    ),
    # Data is scanned before it leaves.
    Guard(
        "both written parts are scanned",
        "bot/services/datasets/datasets.py",
        "    for scan in scans_of(context, report) or ():",
        "    for scan in ():",
        f"{SCANNING}::test_an_older_version_is_scanned_at_its_next_use",
    ),
    Guard(
        "removed sensitive held-out rows stay removed",
        "trainers/dataset/versions.py",
        "    dropped = {missing[index] for index in sensitive}",
        "    dropped = set[int]()",
        f"{SCANNING}::test_after_a_masked_upload_no_address_is_sent",
    ),
    Guard(
        "a secret goes nowhere",
        "bot/services/datasets/datasets.py",
        "    if data_policy.SECRET in codes:",
        "    if False:",
        f"{SCANNING}::test_a_secret_that_older_patterns_missed_is_not_sent",
    ),
    Guard(
        "scanned before the file is sent",
        "bot/services/datasets/data_policy.py",
        "    refusals = [datasets.needs_waiver(context, dataset, report, row) for row in rows]\n",
        "    refusals = []\n",
        f"{SCANNING}::test_approved_rows_are_scanned_before_they_are_sent",
    ),
    Guard(
        "scanned before questions are asked",
        "bot/services/training/run_results.py",
        "        against = data_policy.egress_now(context, run.dataset_id, step.plan.receivers, step.plan.overridden)",
        "        pass",
        f"{SCANNING}::test_held_out_rows_of_a_trained_run_are_scanned_before_the_evaluation",
    ),
    Guard(
        "another machine is not this one",
        "trainers/providers/providers.py",
        '        "stays_here": not has_address,',
        '        "stays_here": is_loopback(table.get("base_url") or "http://127.0.0.1"),',
        "tests/trainers/providers/test_addresses.py::test_behind_a_loopback_address_may_be_a_proxy",
    ),
    # Deleted data is gone.
    Guard(
        "only approvers and sole uploaders delete",
        "bot/services/dataset_deletion.py",
        "    is_theirs = all(version.uploaded_by == person for version in versions)",
        "    is_theirs = True",
        f"{ERASURE}::test_only_an_approver_or_the_uploader_deletes_a_dataset_after_typing_its_name",
    ),
    Guard(
        "only who may promote deletes the model in use",
        "bot/services/dataset_deletion.py",
        "    if deletion_scope.standing_promotions(context, versions):",
        "    if False:",
        f"{ERASURE}::test_deleting_a_dataset_erases_its_rows_from_every_documented_place",
    ),
    Guard(
        "uploads at vendors are deleted with their dataset",
        "bot/services/dataset_deletion.py",
        "        if not are_gone:",
        "        if False:",
        f"{ERASURE}::test_a_deletion_survives_kills_and_the_same_rows_can_be_used_again",
    ),
    Guard(
        "recipes are deleted with the rows that they hold",
        "bot/services/dataset_deletion.py",
        '    paths += [f"{serving}/recipes/{sha256}" for sha256 in recipes.learnt_from(context, ids)]\n',
        "",
        f"{ERASURE}::test_deleting_a_dataset_erases_its_rows_from_every_documented_place",
    ),
    Guard(
        "passages that were withheld from a model stay withheld when it is in use",
        "bot/services/serving/recipe_worker.py",
        "    passages = visible_passages(candidate, plan, read_passages(plan, files))",
        "    passages = tuple(read_passages(plan, files))",
        "tests/bot/serving/test_recipe_worker.py::test_passages_that_were_withheld_from_a_model_stay_withheld",
    ),
    Guard(
        "a door that somebody else started is left alone",
        "bot/door_process.py",
        "    is_ours = answer.pid == started.pid",
        "    is_ours = True",
        "tests/bot/operations/test_door_process.py::test_only_our_own_door_is_replaced",
    ),
    Guard(
        "refused files are deleted",
        "bot/reconciler.py",
        "        dataset_deletion.expire(context, version)",
        "        pass",
        f"{ERASURE}::test_a_refused_file_and_a_refused_document_are_deleted_after_a_day",
    ),
    Guard(
        "notices about a dataset are deleted with it",
        "storage/deletion/dataset_deletion.py",
        "coalesce(dedupe, '')",
        "''",
        f"{ERASURE}::test_waiting_messages_and_delivery_notices_are_deleted_with_their_dataset",
    ),
    # Nothing fails silently.
    Guard(
        "a refusal is stored before its delivery is closed",
        "storage/store.py",
        "            if self.database.changes > before:",
        "            if True:",
        "tests/bot/slack/test_story_inbox.py::test_a_refusal_reaches_the_clicker_although_the_bot_was_killed_after_the_ack",
    ),
    Guard(
        "the first message of each lane",
        OUTBOX,
        "                        PARTITION BY {LANE_SQL}\n",
        "",
        "tests/storage/test_outbox.py::test_a_busy_channel_delays_no_other",
    ),
    Guard(
        "failing messages go to the end of their lane",
        OUTBOX,
        "ORDER BY tries >= {PATIENT_TRIES}, kind",
        "ORDER BY kind",
        "tests/storage/test_outbox.py::test_a_message_that_keeps_failing_goes_to_the_end_of_its_lane",
    ),
    Guard(
        "a missing scope affects one method",
        "bot/slack/api.py",
        '"invalid_auth", "not_authed"})',
        '"invalid_auth", "not_authed", "missing_scope"})',
        "tests/bot/slack/test_story_undeliverable_messages.py::"
        "test_without_two_scopes_results_and_approval_cards_appear_and_each_scope_is_named_once",
    ),
    Guard(
        "a message that is given up is reported",
        "bot/outbox_sender.py",
        "            self.store.outbox.give_up(item, error=error)\n"
        "            self._report_failure(item, error, readers)\n",
        "            self.store.outbox.give_up(item, error=error)\n",
        f"{NOTICES}::test_a_message_that_always_fails_holds_up_no_other_and_is_reported",
    ),
    Guard(
        "no plan where its card can't be posted",
        "bot/services/common/authorization.py",
        "context.directory.takes_posts(channel) is not False:",
        "True:",
        "tests/bot/decisions/test_story_unreachable_approvers.py::test_a_command_that_posts_is_refused_in_a_channel_without_the_bot",
    ),
    Guard(
        "a hung provider delays no other",
        "bot/reconciler.py",
        "        context.threads.begin(provider, partial(work_at_provider, context, provider))",
        "        work_at_provider(context, provider)",
        f"{SLOW}::test_runs_of_one_provider_continue_while_another_hangs",
    ),
    Guard(
        "one thread a provider",
        "bot/provider_threads.py",
        "            if provider in self._busy or self.is_closing:",
        "            if self.is_closing:",
        f"{SLOW}::test_a_create_that_hangs_is_not_repeated",
    ),
    Guard(
        "a task has a time limit",
        "bot/worker_pool.py",
        "now - child.task.begun > self._deadline_s:",
        "False:",
        "tests/bot/operations/test_worker_pool.py::test_a_task_past_its_deadline_is_ended_and_no_other_is_affected",
    ),
    Guard(
        "Parquet is measured before it is unpacked",
        "trainers/dataset/formats/parquet.py",
        "            if size > 2 * limits.max_bytes:",
        "            if False:",
        "tests/trainers/dataset/test_formats.py::test_a_parquet_footer_that_lies_is_not_believed",
    ),
    Guard(
        "a large body is refused by its headers",
        "bot/slack/http.py",
        "        max_request_body_size=MAX_BODY + 1,\n",
        "",
        "tests/bot/slack/test_slack_http.py::test_an_unacceptable_body_is_refused_by_its_headers",
    ),
    Guard(
        "the trainer closes silent connections",
        "trainers/http/connections.py",
        "        if waited >= HEAD_S:",
        "        if False:",
        "tests/local/api/test_connections.py::test_a_connection_without_a_complete_head_is_closed",
    ),
    Guard(
        "the door answers only who has its key",
        "trainers/door/server.py",
        '            and scope["path"] != HEALTH\n',
        "            and False\n",
        "tests/trainers/door/test_chat.py::test_only_the_key_and_our_host_names_are_let_in",
    ),
    Guard(
        "what nobody was asked about begins only in the month whose money it reserved",
        "bot/services/measurement/measurements.py",
        'stage != "asking" or measurement.month != units.month_of(now):\n        return False\n    if receivers',
        'stage != "asking":\n        return False\n    if receivers',
        f"{UNASKED}::test_what_was_reserved_in_another_month_begins_only_after_a_click",
    ),
    Guard(
        "what nobody was asked about sends no row that may not leave",
        "bot/services/measurement/measurements.py",
        "    if receivers.egress_refusal(context, measurement) or not _begin(",
        "    if not _begin(",
        f"{UNASKED}::test_rows_that_may_not_leave_any_more_are_not_sent_unasked",
    ),
    Guard(
        "what nobody was asked about fits into the rest of the month's money",
        "bot/services/monitoring/proposal_measurements.py",
        "    if highest > budgets.left_for_watching(context):\n        return\n",
        "",
        f"{UNASKED}::test_a_cost_above_what_is_left_is_asked_for",
    ),
    Guard(
        "what was spent without asking is no longer left",
        "bot/rules/monitoring/proposals.py",
        "    return max(to_micros(usd_per_month) - committed_micros, 0)",
        "    return to_micros(usd_per_month)",
        f"{UNASKED}::test_a_cost_above_what_is_left_is_asked_for",
    ),
    Guard(
        "a freeze holds what nobody was asked about",
        "bot/services/monitoring/proposal_measurements.py",
        "    if not highest or context.store.freezes.current() is not None:\n        return",
        "    if not highest:\n        return",
        f"{UNASKED}::test_a_freeze_that_comes_after_the_request_holds_it",
    ),
    Guard(
        "a freeze holds the measurement of a month",
        "bot/services/monitoring/monthly_measurements.py",
        '    if context.store.freezes.current() is not None:\n        return "freeze"\n',
        "",
        "tests/bot/monitoring/test_story_monthly.py::test_a_freeze_holds_it_until_it_is_lifted",
    ),
    Guard(
        "the measurement of a month needs enough money",
        "bot/services/monitoring/monthly_measurements.py",
        '    if not left or is_too_dear:\n        return "money"\n',
        "",
        "tests/bot/monitoring/test_story_monthly.py::test_without_enough_money_the_card_asks",
    ),
    Guard(
        "a month has one measurement",
        "storage/monitoring/monthly_measurements.py",
        "WHERE ended_at IS NULL AND measurement IS NULL",
        "WHERE ended_at IS NULL",
        "tests/storage/test_proposals.py::test_what_holds_it_is_recorded_until_it_begins",
    ),
    Guard(
        "no sampled call has a secret",
        "trainers/recipes/placeholders.py",
        '    if SECRET in rules:\n        return "secret"\n    if PERSONAL',
        "    if PERSONAL",
        "tests/trainers/recipes/test_placeholders.py::test_a_text_with_a_secret_is_left_out",
    ),
    Guard(
        "a forgotten name gets no call back that the door still had",
        "trainers/recipes/samples.py",
        "if call.at > forgotten_at.get(call.name, 0.0):",
        "if True:",
        "tests/trainers/recipes/test_samples.py::test_a_forgotten_name_gets_none_of_its_earlier_calls_back",
    ),
    Guard(
        "a program can keep a call out of the sample",
        "trainers/door/sampler.py",
        "        if drawn.headers.get(OPT_OUT_HEADER",
        "        if False and drawn.headers.get(OPT_OUT_HEADER",
        "tests/trainers/door/test_samples.py::test_a_program_can_opt_out",
    ),
    Guard(
        "no call that had personal data is put to a candidate in a live test",
        "trainers/door/live_tests/shadow.py",
        "call.fallback_from is not None or call.is_masked",
        "call.fallback_from is not None",
        "tests/trainers/door/test_shadow.py::"
        "test_only_unmasked_calls_that_what_is_in_use_has_answered_are_put_to_it",
    ),
    Guard(
        "a canary that errs more ends",
        "trainers/door/live_tests/canary.py",
        "        if tally.is_worse:\n",
        "        if False:\n",
        "tests/trainers/door/test_canary.py::test_a_full_disk_does_not_undo_a_stop",
    ),
    Guard(
        "a canary that another worker has stopped ends",
        "trainers/door/live_tests/canary.py",
        "        self._stopped |= stopped\n",
        "",
        "tests/trainers/door/test_canary.py::test_another_workers_stop_ends_it_here",
    ),
    Guard(
        "a conversation counts once for a canary",
        "trainers/door/live_tests/canary.py",
        "if side.conversation in self.conversations:",
        "if False:",
        "tests/trainers/door/test_canary.py::"
        "test_a_conversation_counts_once_and_the_third_that_errs_stops_a_tenth",
    ),
    Guard(
        "what a candidate begins too late is answered by what is in use",
        "trainers/door/calls.py",
        "            async with asyncio.timeout(canary.limit_s):\n",
        "            async with asyncio.timeout(None):\n",
        "tests/trainers/door/test_canary.py::test_a_candidate_has_no_longer_than_what_is_in_use",
    ),
    Guard(
        "a candidate on live calls spends no more than watching may",
        "bot/services/serving/live_candidates.py",
        "min(budgets.left_for_watching(context), budget.left_micros) > 0",
        "budget.left_micros > 0",
        "tests/bot/monitoring/test_story_live_tests.py::test_paid_answers_end_with_the_money_and_go_on_next_month",
    ),
    Guard(
        "something that may not be deployed by a click answers no program",
        "bot/services/monitoring/live_tests.py",
        "    if refusal or not canary:\n",
        "    if True:\n",
        "tests/bot/monitoring/test_story_live_tests.py::test_what_misses_the_bar_is_tried_unseen_but_answers_no_program",
    ),
    Guard(
        "a live test is over once something else is in use",
        "bot/services/monitoring/live_tests.py",
        "    if standing is None or standing.id != test.promotion:\n",
        "    if standing is None and False:\n",
        "tests/bot/monitoring/test_story_live_tests.py::test_what_is_tried_is_over_once_something_else_is_in_use",
    ),
    Guard(
        "a canary that the door has stopped is over",
        "bot/services/monitoring/live_tests.py",
        "    if test.id in canary_events.stopped(context.settings.recipes):\n",
        "    if False:\n",
        "tests/bot/monitoring/test_story_live_tests.py::test_a_canary_is_stopped_by_the_door_and_the_channel_hears_why",
    ),
    Guard(
        "no program reads a vendor's key",
        "trainers/door/upstreams.py",
        'content.replace(key.encode(), b"(the key)")',
        "content",
        "tests/trainers/door/test_chat.py::test_a_vendors_error_is_passed_on",
    ),
    Guard(
        "a door that drains closes each connection with its answer",
        "trainers/door/server.py",
        "            if self.state.is_draining and",
        "            if False and",
        "tests/trainers/door/test_handover.py::test_a_door_that_drains_ends_each_connection_with_its_answer",
    ),
    Guard(
        "a door that another has replaced starts no worker",
        "trainers/door/__main__.py",
        "self._is_stopping or is_another_running(self._folder)",
        "self._is_stopping",
        "tests/trainers/door/test_handover.py::test_a_worker_killed_while_it_drains_is_not_replaced",
    ),
    Guard(
        "another user's process gets no socket of the door",
        "trainers/door/handover.py",
        "    if user != os.geteuid():",
        "    if False:",
        "tests/trainers/door/test_handover.py::test_another_users_process_gets_no_socket",
    ),
    Guard(
        "a model is not measured on rows that it has learnt from",
        "bot/services/datasets/trained_rows.py",
        "        count = len(aside & question_keys_in(path))",
        "        count = 0",
        "tests/bot/training/test_story_going_on.py::"
        "test_a_training_goes_on_only_where_that_proves_something_and_is_possible",
    ),
    Guard(
        "a training from a model that is gone is not started",
        "bot/services/decisions/plans.py",
        "        if lost:\n            return lost\n",
        "",
        "tests/bot/training/test_story_going_on.py::"
        "test_a_training_goes_on_only_where_that_proves_something_and_is_possible",
    ),
    Guard(
        "better answers to held-out questions become no rows",
        "bot/services/serving/better_answers.py",
        "        if key in held_keys:",
        "        if False:",
        "tests/bot/serving/test_story_tried_answers.py::"
        "test_better_answers_become_pairs_that_train_the_judged_model_and_rows",
    ),
    Guard(
        "pairs of held-out questions train no model",
        "bot/services/serving/tried_answers.py",
        "if _key_of(row) not in held_keys]",
        "if True]",
        "tests/bot/serving/test_story_tried_answers.py::"
        "test_better_answers_become_pairs_that_train_the_judged_model_and_rows",
    ),
    Guard(
        "a document is removed only by who may",
        "bot/services/document_removal.py",
        '    refusal = authorization.refusal(context, person, "delete", document.channel, request)\n',
        "    refusal = None\n",
        "tests/bot/measurement/test_story_measuring.py::test_a_word_document_is_read_listed_and_removed",
    ),
    Guard(
        "what a model has learnt is not held out of a first version",
        "trainers/dataset/versions.py",
        "    fresh = _find_fresh(facts.keys, groups, learnt)",
        "    fresh = _find_fresh(facts.keys, groups, frozenset())",
        "tests/trainers/dataset/test_versions.py::test_a_question_that_a_model_has_learnt_is_never_held_out",
    ),
    Guard(
        "what a model has learnt is not held out of a later version",
        "trainers/dataset/versions.py",
        "        return (keys | self.learnt) - self.held",
        "        return keys - self.held",
        "tests/trainers/dataset/test_versions.py::test_a_question_that_a_model_has_learnt_is_never_held_out",
    ),
    # A vendor's bill corrects a run once, by what is its own and final.
    Guard(
        "a bill is booked once",
        "bot/services/training/vendor_bills.py",
        "        if not store.vendor_bills.book(run, booked_micros=booked, billed_micros=bill.micros, now=now):\n"
        "            return\n",
        "",
        f"{BILL}::test_a_run_is_corrected_once_when_its_bill_is_final",
    ),
    Guard(
        "a bill and what it corrects are one transaction",
        "bot/services/training/vendor_bills.py",
        "    with store.transaction():\n        settled",
        "    if True:\n        settled",
        f"{BILL}::test_a_kill_at_any_line_leaves_all_of_the_correction_or_nothing",
    ),
    Guard(
        "a refused key is not asked again at once",
        "bot/services/training/vendor_bills.py",
        "        context.checked_at[_refusal(provider)] = context.clock()\n",
        "",
        f"{BILL}::test_a_key_without_the_right_is_told_once_and_asked_daily",
    ),
    Guard(
        "others' usage is not billed to a run",
        BILL_RULES,
        "metadata.get(HOSTED_JOB) == job_id",
        "metadata",
        f"{BILLED}::test_the_parts_are_summed_apart_and_others_usage_is_left_out",
    ),
    Guard(
        "list prices of today are no bill",
        BILL_RULES,
        "    if listed.invoiced_until is None or listed.invoiced_until < last:",
        "    if listed.invoiced_until is None:",
        f"{BILLED}::test_a_bill_waits_until_all_of_it_is_priced_by_an_invoice",
    ),
    Guard(
        "usage without a price keeps a bill open",
        BILL_RULES,
        '            return "not priced"\n',
        "            continue\n",
        f"{BILLED}::test_a_bill_waits_until_all_of_it_is_priced_by_an_invoice",
    ),
    Guard(
        "a bill replaces the training's figure alone",
        BILL_RULES,
        "    return max(settled - booked, 0) + bill.micros",
        "    return bill.micros",
        f"{BILLED}::test_only_what_was_booked_for_the_training_is_replaced",
    ),
)
