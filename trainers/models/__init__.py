"""What is known of models: dimensions of base models, templates, tokens, parameters of requests, end dates."""

PUBLIC_MODULES = (
    "base_models",
    "chat_parameters",
    "chat_templates",
    "model_list",
    "tokens",
)
