"""Malformed files, Slack deliveries, API calls and files in a cluster's storage, and what must hold after each.

The default suite tries about a hundred of each, always the same ones; `make fuzz` tries 10,000.
"""
