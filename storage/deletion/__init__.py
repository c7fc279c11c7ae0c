"""What is deleted for good: datasets on request, answers by their age, and what SQLite leaves of either."""
