"""The crash and fault tests at full length: `python -m benchmarks.chaos`, which is `make chaos`."""
