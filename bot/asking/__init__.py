"""Asks models in threads, within the limits of each provider, and keeps every answer as it comes."""
