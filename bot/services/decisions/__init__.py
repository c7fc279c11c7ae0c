"""From an estimate to a plan that the team has approved."""
