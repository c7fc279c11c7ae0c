"""Models after their training: deployed and rolled back, tried, served by the hour, counted, and followed until their
end."""

PUBLIC_MODULES = (
    "alias_sync",
    "better_answers",
    "candidate_exports",
    "deployment_requests",
    "deployments",
    "models",
    "orphan_deployments",
    "promotables",
    "promotion_records",
    "promotion_requests",
    "promotions",
    "publications",
    "questions",
    "recipes",
    "sunsets",
    "tried_answers",
)
