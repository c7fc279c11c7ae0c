"""The trainer's HTTP API in OpenAI's shapes: who may call it, what requests mean, and the bodies of its answers."""
