"""Evaluates answers to a frozen holdout: statistics, scoring, prompts, the comparison of candidates and learning
curves. Doesn't ask any model."""

PUBLIC_MODULES = (
    "answer_format",
    "claims",
    "comparison",
    "copied_values",
    "json_fields",
    "learning_curves",
    "looks",
    "out_of_fold",
    "prompt_search",
    "prompts",
    "quality_threshold",
    "results",
    "retrieval",
    "row_choice",
    "scores",
    "spans",
    "statistics",
    "terms",
    "tfidf",
    "wrong_rows",
)
