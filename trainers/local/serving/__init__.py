"""Answers requests with base and tuned models: weights in memory, batches, the decoding loop. Knows no HTTP."""
