"""From an estimate to a plan that the team has approved."""

PUBLIC_MODULES = (
    "approvals",
    "estimate_requests",
    "estimates",
    "freeze",
    "plan_requests",
    "plans",
    "run_again",
    "superseded_plans",
    "team_questions",
)
