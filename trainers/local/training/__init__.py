"""LoRA training on a job's folder: rows, base model, loop, checkpoints. Knows no HTTP; `train.py` above starts it."""
