"""The folder of recipes: what was frozen stays as it was, and readers never see half of a change."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from trainers.recipes.folder import RECIPE_FILE, RecipeFolder
from trainers.recipes.values import Published, Recipe, Shot, Unavailable, Upstream, Upstreams

PROMPT = Recipe(
    kind="kshot",
    dataset="tickets",
    version=2,
    task="labels",
    scoring="label",
    labels=("billing", "delivery"),
    provider="openai",
    model="gpt-5-nano",
    prompt="Which team answers?",
    shots=(Shot("Where is my parcel?", "delivery"),),
    max_tokens=16,
)


@pytest.fixture
def folder(tmp_path: Path) -> RecipeFolder:
    return RecipeFolder(tmp_path / "serving")


def test_a_recipe_is_read_as_it_was_stored(folder: RecipeFolder) -> None:
    stored = folder.add(PROMPT, {"weights.npz": b"123"})
    assert folder.hashes() == {stored.sha256}
    assert folder.read(stored.sha256) == stored
    assert folder.read_file(stored, "weights.npz") == b"123"
    assert folder.read("0" * 64) is None


def test_another_part_is_another_recipe(folder: RecipeFolder) -> None:
    first = folder.add(PROMPT, {"weights.npz": b"123"})
    second = folder.add(PROMPT, {"weights.npz": b"124"})
    assert first.sha256 != second.sha256
    assert folder.add(PROMPT, {"weights.npz": b"123"}) == first
    assert len(folder.hashes()) == 2
    folder.remove(first.sha256)
    assert folder.hashes() == {second.sha256}


def test_what_a_kill_left_unfinished_is_deleted_once_nobody_can_be_writing_it(folder: RecipeFolder) -> None:
    stored = folder.add(PROMPT, {})
    left = folder.recipe_path(stored.sha256).with_name(f"{stored.sha256}.1.part")
    left.mkdir()
    (left / "examples.json").write_text("a row")
    folder.remove_unfinished(before=left.stat().st_mtime - 1)
    assert left.exists()
    folder.remove_unfinished(before=left.stat().st_mtime + 1)
    assert not left.exists() and folder.hashes() == {stored.sha256}


def test_what_was_changed_on_disk_is_refused(folder: RecipeFolder) -> None:
    stored = folder.add(PROMPT, {"weights.npz": b"123"})
    (folder.recipe_path(stored.sha256) / "weights.npz").write_bytes(b"124")
    with pytest.raises(ValueError, match=r"weights\.npz"):
        folder.read_file(stored, "weights.npz")
    path = folder.recipe_path(stored.sha256) / RECIPE_FILE
    path.write_text(path.read_text().replace("gpt-5-nano", "gpt-5-mini"))
    with pytest.raises(ValueError, match="changed on disk"):
        folder.read(stored.sha256)


def test_a_name_gets_what_was_published_last(folder: RecipeFolder) -> None:
    assert folder.published("team/tickets") is None
    folder.publish(Published("team/tickets", recipe="a" * 64, promotion=3))
    gone = Published("team/tickets", unavailable=Unavailable(404, "not_in_use", "No model is in use."))
    folder.publish(gone)
    assert folder.published("team/tickets") == gone


@pytest.mark.parametrize("name", ["team/", "team/../call", "team/a/b", "team/.hidden"])
def test_a_name_stays_in_its_folder(folder: RecipeFolder, name: str) -> None:
    with pytest.raises(ValueError, match="not a name like"):
        folder.name_path(name)


def test_key_and_addresses_are_for_this_user_alone(folder: RecipeFolder) -> None:
    key = folder.call_key()
    assert folder.call_key() == key
    folder.publish_upstreams(Upstreams((Upstream("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),)))
    for path in (folder.key_path, folder.upstreams_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    read = Upstreams.from_json(folder.upstreams_path.read_bytes())
    assert read.upstreams[0].key_variable == "OPENAI_API_KEY"
