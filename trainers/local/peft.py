"""peft's classes. The trainer imports them only from this module, which keeps torch's compiler from being loaded.

peft imports bitsandbytes if that is installed, and bitsandbytes compiles four functions when it is imported. For these
torch loads its compiler, which takes over a second and 43 MB at the start of every training and before the first
answer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch


def compile_at_first_call(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
    """Stands in for torch.compile, but compiles a function only when it is first called."""
    if function is None:
        return partial(compile_at_first_call, **options)
    compiled = cache(partial(_compile, function, **options))
    return lambda *arguments, **named: compiled()(*arguments, **named)


def _import_bitsandbytes() -> None:
    if "bitsandbytes" in sys.modules or find_spec("bitsandbytes") is None:
        return
    # On some CPUs it warns about a missing package that would download kernels from the hub.
    logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)
    torch.compile = compile_at_first_call  # type: ignore[assignment]
    try:
        import_module("bitsandbytes")
    finally:
        torch.compile = _compile


_compile = torch.compile
_import_bitsandbytes()

from peft import LoraConfig as LoraConfig  # noqa: E402
from peft import PeftModel as PeftModel  # noqa: E402
from peft import get_peft_model as get_peft_model  # noqa: E402
from peft import get_peft_model_state_dict as get_peft_model_state_dict  # noqa: E402
from peft import set_peft_model_state_dict as set_peft_model_state_dict  # noqa: E402
from peft.tuners.lora.layer import Linear as Linear  # noqa: E402
from peft.tuners.lora.layer import LoraLayer as LoraLayer  # noqa: E402
from peft.tuners.tuners_utils import BaseTunerLayer as BaseTunerLayer  # noqa: E402
from peft.utils.other import AuxiliaryTrainingWrapper as AuxiliaryTrainingWrapper  # noqa: E402
