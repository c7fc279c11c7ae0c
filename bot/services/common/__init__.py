"""What every service may ask: who may do what, budgets, providers' jobs and hardware, and how a message is sent."""

PUBLIC_MODULES = (
    "authorization",
    "budgets",
    "candidates",
    "finished_measurements",
    "freeze_scope",
    "hardware",
    "hourly_prices",
    "message_topics",
    "messages",
    "model_history",
    "provider_clients",
    "provider_jobs",
    "settings_history",
    "starting_models",
    "targets",
    "token_serving",
)
