"""Measuring candidates on the held-out rows: asked for, agreed to, asked and judged, with prompts that are searched
for and examples that are chosen."""

PUBLIC_MODULES = (
    "distillations",
    "evaluation_engine",
    "evaluations",
    "few_shot",
    "free_encoder",
    "human_preferences",
    "judge_checks",
    "judgements",
    "learning_curves",
    "measurements",
    "prompt_search",
    "prompt_search_worker",
    "wrong_rows",
)
