"""A toy model, so that a story's training takes seconds, and one warning that these tests allow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.local.conftest import make_model, make_tokenizer

CONTEXT = 8192  # tokens; the toy has one for each letter, and a prompt with ten examples takes about 3,000


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_tokenizer(folder)
    make_model(folder)
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": CONTEXT}))
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow what slack_sdk's Socket Mode client may do when it is closed on a busy machine.

    It may leave its socket to the garbage collector, which may run in any later test of the same process.
    """
    allowed = pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    )
    here = f"{Path(__file__).parent}/"
    for item in items:
        # Every test of the run passes here, and texts are compared in a tenth of the time that paths take.
        if str(item.path).startswith(here):
            item.add_marker(allowed)
