"""What is in use under each name, as the folder of recipes says now. A file is read again once it was replaced; looking
takes a few microseconds, so every call looks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from trainers.encoders import EncoderError
from trainers.http.errors import ApiError
from trainers.recipes.folder import ALIAS_PREFIX, RecipeFolder
from trainers.recipes.library import NOTHING_SHOWN, Shown
from trainers.recipes.prompts import as_row
from trainers.recipes.values import Published, PublishedTest, Recipe, Upstream, Upstreams

if TYPE_CHECKING:  # imported with the first recipe that needs them, since they take 15 MB and more
    from trainers.recipes.free import FreeAnswer, FreeAnswerer
    from trainers.recipes.library import RecipeLibrary

T = TypeVar("T")
Stamp = tuple[int, int, int]

log = logging.getLogger(__name__)


class WatchedFile(Generic[T]):
    """A small file that another process replaces by a rename. One that can't be read leaves the last value in force."""

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        self.path = path
        self._parse = parse
        self._stamp: Stamp | None = None
        self._value: T | None = None

    def read(self) -> T | None:
        """Returns the file's value, None if there is no file or none could ever be read."""
        try:
            status = self.path.stat()
        except (OSError, ValueError):  # ValueError for a name that no file can have
            self._stamp = None
            self._value = None
            return None
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._value = self._parse(self.path.read_bytes())
            except (OSError, ValueError, TypeError) as error:
                log.error("reading %s: %s", self.path.name, error)
        return self._value


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with what it answers with. `free` is None if a model is asked, `library` if nothing is looked up."""

    recipe: Recipe
    executor: Executor
    free: FreeAnswerer | None = None
    library: RecipeLibrary | None = None

    async def show(self, messages: Sequence[Mapping[str, Any]]) -> Shown:
        """Returns what the prompt shows with this request. Searching takes milliseconds of another thread."""
        if self.library is None:
            return NOTHING_SHOWN
        loop = asyncio.get_running_loop()
        question = as_row(messages)
        return await loop.run_in_executor(self.executor, self.library.show, question)

    async def answer(self, texts: list[str]) -> tuple[FreeAnswer, ...]:
        """Returns the answers of a free candidate."""
        assert self.free is not None  # noqa: S101  callers have looked
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, self.free.answer, texts)


class Names:
    """`executor` has one thread: onnxruntime works without Python's lock, so a second would gain nothing."""

    def __init__(self, folder: RecipeFolder, executor: Executor) -> None:
        self.folder = folder
        self._executor = executor
        self._files: dict[str, WatchedFile[Published]] = {}
        self._upstreams = WatchedFile(folder.upstreams_path, _parse_upstreams)
        self._key = WatchedFile(folder.key_path, lambda content: content.decode().strip())
        self._loads: dict[str, asyncio.Task[LoadedRecipe]] = {}
        self._tried: set[str] = set()

    def close(self) -> None:
        """Ends the thread that answers. Nothing can be loaded after that."""
        self._executor.shutdown(wait=False)

    def key(self) -> str:
        """Returns the key of programs, "" if there is none: then nothing is answered."""
        return self._key.read() or ""

    def upstream(self, provider: str) -> Upstream | None:
        upstreams = self._upstreams.read() or {}
        return upstreams.get(provider)

    def find(self, name: str) -> Published | None:
        """Returns what is published under a name."""
        file = self._files.get(name)
        if file is None:
            try:
                file = WatchedFile(self.folder.name_path(name), Published.from_json)
            except ValueError:
                return None
        published = file.read()
        if published is None:
            self._files.pop(name, None)
        else:
            self._files[name] = file
        return published

    def is_sampled(self, name: str) -> bool:
        """True if calls under this name are stored at this moment."""
        published = self.find(name)
        return published is not None and published.sampling is not None

    def all(self) -> list[Published]:
        """Returns what is published under all names, in their order."""
        paths = sorted((self.folder.root / "names").glob("*.json"))
        in_use = [self.find(f"{ALIAS_PREFIX}{path.stem}") for path in paths]
        return [published for published in in_use if published is not None]

    def live_tests(self) -> list[PublishedTest]:
        """Returns all live tests under way."""
        live_tests = [published.live_test for published in self.all()]
        return [live_test for live_test in live_tests if live_test is not None]

    async def load(self, sha256: str) -> LoadedRecipe:
        """Returns a recipe, ready to answer. Raises ApiError (503)."""
        task = self._loads.get(sha256)
        if task is None:
            task = asyncio.create_task(self._load(sha256))
            self._loads[sha256] = task
        try:
            return await asyncio.shield(task)
        except (OSError, ValueError, TypeError, KeyError, EncoderError) as error:
            log.error("loading the recipe %s: %s", sha256[:12], error)
            why = str(error)
            if isinstance(error, OSError):  # whose text would show a path of this machine
                why = f"a file can't be read ({error.strerror})."
            text = f"The recipe {sha256[:12]} can't be used: {why}"
            raise ApiError(503, text, "recipe_unusable", kind="server_error") from error
        finally:
            has_failed = task.done() and (task.cancelled() or task.exception() is not None)
            if has_failed:
                self._loads.pop(sha256, None)  # the next call tries again

    async def _load(self, sha256: str) -> LoadedRecipe:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, open_recipe, self.folder, sha256, self._executor)

    async def prepare(self) -> None:
        """Loads what is in use and forgets what no longer is, so that a program never waits for a promotion."""
        wanted: set[str] = set()
        for published in self.all():
            if published.recipe:
                wanted.add(published.recipe)
            if published.fallback:
                wanted.add(published.fallback)
        tried = {live_test.recipe for live_test in self.live_tests()}
        for sha256 in self._loads.keys() - wanted - tried:
            del self._loads[sha256]
        for sha256 in sorted(wanted - self._loads.keys()):
            try:
                await self.load(sha256)
            except ApiError:
                continue  # logged; programs that ask for it get this error

    async def prepare_live_tests(self) -> None:
        """Loads the candidates in live tests, each once: a call that needs one which can't be loaded tries again."""
        tried = {live_test.recipe for live_test in self.live_tests()}
        for sha256 in sorted(tried - self._tried):
            try:
                await self.load(sha256)
            except ApiError:
                continue  # logged
            except Exception as error:
                # Whatever is wrong with it must not end the loop that loads what is in use.
                log.error("loading the candidate %s: %s", sha256[:12], type(error).__name__)
        self._tried = tried


def open_recipe(folder: RecipeFolder, sha256: str, executor: Executor) -> LoadedRecipe:
    """Loads a recipe and its files. Raises ValueError if it was changed, OSError if it is gone, and EncoderError."""
    recipe = folder.read(sha256)
    if recipe is None:
        raise ValueError("it is not in the folder.")
    if recipe.is_free:
        from trainers.recipes.free import open_free

        return LoadedRecipe(recipe, executor, free=open_free(folder, recipe))
    if recipe.retrieved:
        from trainers.recipes.library import open_recipe_library

        return LoadedRecipe(recipe, executor, library=open_recipe_library(folder, recipe))
    return LoadedRecipe(recipe, executor)


def _parse_upstreams(content: bytes) -> dict[str, Upstream]:
    read = Upstreams.from_json(content)
    return {upstream.name: upstream for upstream in read.upstreams}
