"""Models: what they need, cost and do. Knows neither Slack nor our database."""
