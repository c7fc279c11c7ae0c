"""What a person reads, as cards of semantic blocks with renderers for Slack and the terminal. Pure."""
