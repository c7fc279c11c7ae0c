"""What may be in use after its training or measurement: deployed and rolled back, served by the hour, tested on sealed
rows, and followed until its end."""

PUBLIC_MODULES = (
    "deployment_requests",
    "deployment_summaries",
    "deployments",
    "fallback_summaries",
    "models",
    "orphan_deployments",
    "promotables",
    "promotion_records",
    "promotion_requests",
    "promotions",
    "sunsets",
    "unused_deployments",
)
