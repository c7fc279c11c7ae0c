"""Trains a job's folder with LoRA: rows, base model, loop, checkpoints. Knows nothing of HTTP; `../train.py` starts
it."""
