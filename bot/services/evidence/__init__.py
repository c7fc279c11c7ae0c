"""What is known about candidates: stored answers and scores, how often the held-out rows were seen, what people say
about a judge, and how a run and its result are shown. The workers that score answers are here too."""

PUBLIC_MODULES = (
    "candidate_prompts",
    "checked_judges",
    "evaluation_worker",
    "evidence",
    "judge_worker",
    "looks",
    "measured_candidates",
    "measurement_notes",
    "notifications",
    "promotion_evidence",
    "read_rows",
    "retrieved_texts",
    "run_states",
    "scored_rows",
)
