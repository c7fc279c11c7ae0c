"""Exports tuned models in forms that other programs load: merged, GGUF, Ollama, vLLM, hub, ONNX. Trains nothing."""
