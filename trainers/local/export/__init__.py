"""A tuned model in the forms that other programs load: merged, GGUF, Ollama, vLLM, hub. Trains nothing."""
