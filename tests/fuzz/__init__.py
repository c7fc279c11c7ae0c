"""What nobody would send: malformed files, Slack payloads and API bodies, and what must be true after each.

The default suite tries a few hundred of each, the same ones each time; `make fuzz` tries 10,000.
"""
