"""What runs in worker processes: checking files, prompts, rung 0, judgements, plots."""
