"""The trials of a sweep, and the rounds in which they are narrowed down."""
