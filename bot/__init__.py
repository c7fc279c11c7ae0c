"""People: what they ask in Slack, what they may, what they read."""
