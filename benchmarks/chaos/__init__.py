"""What is proven of money and trust, at full length: `python -m benchmarks.chaos` (that is `make chaos`)."""
