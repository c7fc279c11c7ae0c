"""The demo: the whole story played on this machine, as two people would in Slack. Not part of the wheel."""
