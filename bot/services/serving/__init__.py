"""What programs and people get from what is in use: its recipe, published under team/NAME, its calls counted with their
cost, questions to it, and a folder to take along."""

PUBLIC_MODULES = (
    "adapter_exports",
    "alias_sync",
    "better_answers",
    "call_costs",
    "call_samples",
    "candidate_exports",
    "fallbacks",
    "live_candidates",
    "publications",
    "questions",
    "recipes",
    "tried_answers",
    "week_counts",
)
