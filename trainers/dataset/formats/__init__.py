"""What a file is, and each of its records → one Example, or the first thing wrong with it."""
