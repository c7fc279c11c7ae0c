"""Our own trainer: a process of its own that speaks OpenAI's fine-tuning API.

Nobody imports it; it needs the extra [local].
"""
