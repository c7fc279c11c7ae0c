"""How long a test waits for another thread or process before it fails: a busy machine sets FINETUNE_TEST_PATIENCE_S."""

from __future__ import annotations

import os
from collections.abc import Callable

from demo import workspace
from demo.workspace import Seen

# lower when the wait is expected to fail, as for mutants
PATIENCE_S = float(os.environ.get("FINETUNE_TEST_PATIENCE_S", "20"))


def wait_until(look: Callable[[], Seen | None], what: str, *, seconds: float = PATIENCE_S) -> Seen:
    """Waits until the result of `look` is true and returns it, as the demo does, for PATIENCE_S at least."""
    return workspace.wait_until(look, what, seconds=max(seconds, PATIENCE_S))
