"""Our own trainer: a process of its own that speaks OpenAI's fine-tuning API. Nobody imports it; needs extra [local]."""
