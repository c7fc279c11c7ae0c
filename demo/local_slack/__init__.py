"""A third party's Slack on localhost, with a web page, as a Workspace. Its traps: docs/local-slack.md."""

from demo.local_slack.process import find_local_slack
from demo.local_slack.workspace import LocalSlack

__all__ = ["LocalSlack", "find_local_slack"]
