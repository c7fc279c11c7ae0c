"""Cards about measurements: what they cost, what they found, judges, prompts, learning curves."""
