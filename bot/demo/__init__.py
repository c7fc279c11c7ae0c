"""Slack workspaces on this machine and the story played in them; nothing of it runs in production."""
