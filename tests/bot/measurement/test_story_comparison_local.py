"""A comparison on our own trainer, which is a real process with a toy model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bot.measurements import HELD, comparison_of, measurement, until
from tests.bot.world import MakeWorld, Rules
from tests.local.conftest import tiny_model_dir  # noqa: F401 - a fixture
from tests.local.trainer_server import KEY, serve_in_process


@pytest.mark.deep
def test_models_of_our_own_trainer_are_measured_unnamed_and_for_free(
    make_world: MakeWorld,
    tmp_path: Path,
    tiny_model_dir: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    with serve_in_process(tmp_path / "trainer", f"tiny={tiny_model_dir}") as served:
        own = f'[providers.local]\nbase_url = "{served.url}"\n[providers.local.models.tiny]\nusd_per_hour = "0"\n'
        world = make_world(Rules(more=own))
        world.seed_dataset()
        assert world.type("/finetune baseline tickets candidates=classical,zero,kshot") == ""
        until(world, "done", seconds=120)
        comparison = comparison_of(world)
        assert [candidate.key for candidate in comparison.candidates] == [
            "classical",
            "zero local/tiny",
            "kshot local/tiny",
        ]
        assert all(candidate.n == HELD and candidate.usd_per_1000 == 0 for candidate in comparison.candidates)
        assert all(candidate.prompt_tokens > 0 for candidate in comparison.candidates[1:])
        assert measurement(world).actual_micros == 0
        assert "Left out: prompt alone, local/smollm2-135m" in world.find_message("Left out")
