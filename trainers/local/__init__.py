"""Our own trainer, a separate process with OpenAI's fine-tuning API.

No other package imports it. It needs the extra [local].
"""
