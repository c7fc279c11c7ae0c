"""The files that an installation starts from: the app's manifest, and examples of settings and of secrets. Also the
stylesheet of reports, and a font for letters that matplotlib's own font lacks.

In a checkout the first three are links to the files at the top of the repository; a wheel contains copies.
"""

from __future__ import annotations

from importlib.resources import files


def read_resource(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
