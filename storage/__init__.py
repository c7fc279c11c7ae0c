"""Memory: what we remember, in SQLite. Knows neither people's rules nor models."""
