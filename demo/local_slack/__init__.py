"""A third party's Slack on localhost, with a web page, as a Workspace. docs/local-slack.md lists its quirks."""

from demo.local_slack.process import find_local_slack
from demo.local_slack.workspace import LocalSlack

__all__ = ["LocalSlack", "find_local_slack"]
