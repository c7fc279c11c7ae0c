"""The files that an installation starts from: the app's manifest, examples of settings and of secrets.

In a checkout they are links to the files at the top, so that each exists once; a wheel holds copies. Beside
them the style of reports, and a font for the charts' letters that matplotlib's own font lacks.
"""

from __future__ import annotations

from importlib.resources import files


def read_resource(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
