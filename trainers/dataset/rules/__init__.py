"""What is wrong with rows, one by one and together: copies, contradictions, secrets, doubted labels."""
