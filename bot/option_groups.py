"""The groups of options: money, data and training. An option declares its group, and the help in Slack, the form of
estimates, docs/commands.md and `--help` in the terminal show the options in this order.

Knows no particular option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import click

OptionGroup = Literal["money", "data", "training"]
GROUPS: Mapping[OptionGroup, str] = {
    "money": "Money",
    "data": "Data and quality",
    "training": "Training",
}
UNGROUPED = "Others"
_Handler = TypeVar("_Handler", bound=Callable[..., Any])


class GroupedOption(click.Option):
    """An option that belongs to a group."""

    def __init__(self, *declarations: Any, group: OptionGroup, **settings: Any) -> None:
        super().__init__(*declarations, **settings)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help in the terminal shows its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        params = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        for title, options in by_group(params).items():
            records = [option.get_help_record(ctx) for option in options]
            rows = [record for record in records if record is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def grouped_option(group: OptionGroup, *declarations: str, **settings: Any) -> Callable[[_Handler], _Handler]:
    """Declares an option of a group on a handler, like click's own decorator."""
    return click.option(*declarations, cls=GroupedOption, group=group, **settings)


def group_of(option: click.Parameter) -> OptionGroup | None:
    if isinstance(option, GroupedOption):
        return option.group
    return None


def by_group(options: Iterable[click.Option]) -> dict[str, list[click.Option]]:
    """Returns the options under their groups' titles, in the order of GROUPS; those without a group come last. If not
    even two groups have options, all are under UNGROUPED."""
    grouped: dict[str, list[click.Option]] = {title: [] for title in (*GROUPS.values(), UNGROUPED)}
    everything = list(options)
    groups = {group_of(option) for option in everything} - {None}
    for option in everything:
        group = group_of(option)
        title = UNGROUPED
        if group is not None and len(groups) > 1:
            title = GROUPS[group]
        grouped[title].append(option)
    return {title: members for title, members in grouped.items() if members}
