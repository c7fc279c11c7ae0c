"""What the commands of the terminal compute and print: no Slack, and nothing kept but paid answers."""
