"""Memory: everything the bot stores, in SQLite. Knows nothing about people's rules or models."""
