"""Calls to a provider's API for training."""
