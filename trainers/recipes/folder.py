"""The folder of what is in use, which one process writes and another reads while programs call.

    recipes/HASH/recipe.json   a recipe, beside its files; never changed once it is there
    names/NAME.json            what programs get under team/NAME; replaced by a rename
    upstreams.json             where providers are called; replaced by a rename
    call.key                   the key of programs, which can do nothing but call

Recipes hold rows of the team's: they are deleted with them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from trainers.recipes.values import Published, Recipe, RecipeFile, Upstreams

RECIPE_FILE = "recipe.json"
KEY_FILE = "call.key"
UNFINISHED = ".part"
ALIAS_PREFIX = "team/"


@dataclass(frozen=True)
class RecipeFolder:
    root: Path

    def recipe_path(self, sha256: str) -> Path:
        """Returns the folder of a recipe and its files."""
        return self._recipes / sha256

    def name_path(self, name: str) -> Path:
        """Returns the file of a name such as 'team/tickets'. Raises ValueError if a file can't have this name."""
        own = name.removeprefix(ALIAS_PREFIX)
        is_path = own != Path(own).name
        if not own or is_path or own.startswith("."):
            raise ValueError(f"'{name}' is not a name like {ALIAS_PREFIX}tickets")
        return self._names / f"{own}.json"

    @property
    def _recipes(self) -> Path:
        return self.root / "recipes"

    @property
    def _names(self) -> Path:
        return self.root / "names"

    @property
    def upstreams_path(self) -> Path:
        return self.root / "upstreams.json"

    @property
    def key_path(self) -> Path:
        return self.root / KEY_FILE

    def add(self, recipe: Recipe, files: Mapping[str, bytes]) -> Recipe:
        """Stores a recipe with its files, by their names. Returns it with the files' hashes. A recipe that is there
        already is left alone."""
        described = [RecipeFile(name, _sha256(content)) for name, content in sorted(files.items())]
        recipe = replace(recipe, files=tuple(described))
        target = self.recipe_path(recipe.sha256)
        if target.exists():
            return recipe
        aside = target.with_name(f"{target.name}.{os.getpid()}{UNFINISHED}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for name, content in files.items():
            (aside / name).write_bytes(content)
        (aside / RECIPE_FILE).write_text(recipe.to_json(), encoding="utf-8")
        aside.rename(target)
        return recipe

    def read(self, sha256: str) -> Recipe | None:
        """Returns a stored recipe, None if there is none. Raises ValueError if it is not what its hash says."""
        path = self.recipe_path(sha256) / RECIPE_FILE
        if not path.exists():
            return None
        recipe = Recipe.from_json(path.read_bytes())
        if recipe.sha256 != sha256:
            raise ValueError(f"the recipe {sha256[:12]} was changed on disk")
        return recipe

    def read_file(self, recipe: Recipe, name: str) -> bytes:
        """Returns one of the recipe's files. Raises ValueError if it was changed, OSError if it is gone."""
        hashes = {file.name: file.sha256 for file in recipe.files}
        content = (self.recipe_path(recipe.sha256) / name).read_bytes()
        if _sha256(content) != hashes[name]:
            raise ValueError(f"{name} of the recipe {recipe.sha256[:12]} was changed on disk")
        return content

    def remove(self, sha256: str) -> None:
        """Deletes a recipe and its files, if it is there."""
        shutil.rmtree(self.recipe_path(sha256), ignore_errors=True)

    def hashes(self) -> frozenset[str]:
        """Returns the hashes of all stored recipes."""
        if not self._recipes.exists():
            return frozenset()
        names = (path.name for path in self._recipes.iterdir())
        return frozenset(name for name in names if not name.endswith(UNFINISHED))

    def remove_unfinished(self, before: float) -> None:
        """Deletes what kills have left of recipes that were being written: it may hold rows, and no hash names it."""
        for path in self._recipes.glob(f"*{UNFINISHED}"):
            try:
                written_at = path.stat().st_mtime
            except FileNotFoundError:  # a worker has just given it its name
                continue
            if written_at < before:
                shutil.rmtree(path, ignore_errors=True)

    def publish(self, published: Published) -> None:
        """Has programs get this under its name from now on."""
        replace_file(self.name_path(published.name), published.to_json())

    def published(self, name: str) -> Published | None:
        path = self.name_path(name)
        if not path.exists():
            return None
        return Published.from_json(path.read_bytes())

    def published_names(self) -> frozenset[str]:
        """Returns the names under which anything is published, such as 'team/tickets'."""
        files = self._names.glob("*.json")
        return frozenset(f"{ALIAS_PREFIX}{file.stem}" for file in files)

    def withdraw(self, name: str) -> None:
        """Deletes what is published under this name: programs that call it hear that there is no such name."""
        self.name_path(name).unlink(missing_ok=True)

    def upstreams(self) -> Upstreams:
        """Returns where providers are called, as it was written last."""
        if not self.upstreams_path.exists():
            return Upstreams()
        return Upstreams.from_json(self.upstreams_path.read_bytes())

    def publish_upstreams(self, upstreams: Upstreams) -> None:
        replace_file(self.upstreams_path, upstreams.to_json())

    def call_key(self) -> str:
        """Returns the key of programs. It is created at first use, in a file that only this user can read."""
        if not self.key_path.exists():
            replace_file(self.key_path, secrets.token_urlsafe(32))
        return self.key_path.read_text(encoding="utf-8").strip()


def replace_file(path: Path, text: str) -> None:
    """Writes a file that only this user can read, by a rename, so that a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
