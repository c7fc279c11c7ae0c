"""The Modelfile beside a GGUF file: all that `ollama create` needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainers.local.exporting.chat_template import ChatTemplate
from trainers.local.exporting.refusals import ExportRefused

USUAL_CONTEXT = 4096


def modelfile(
    gguf: Path, template: ChatTemplate, stops: Sequence[str], context: int, system: str | None
) -> str:
    """Temperature 0, as the model was measured. Raises ExportRefused where the system prompt can't be quoted."""
    lines = [f"FROM ./{gguf.name}", f'TEMPLATE """{template.in_go()}"""', "PARAMETER temperature 0"]
    lines += [f"PARAMETER num_ctx {context}", *(f'PARAMETER stop "{stop}"' for stop in stops)]
    if system is not None:
        lines.append(f"SYSTEM {_quoted(system)}")
    return "\n".join(lines) + "\n"


def _quoted(system: str) -> str:
    """A Modelfile knows no escapes, only three quotation marks around a text."""
    if '"""' in system or system.endswith('"'):
        raise ExportRefused(
            "The rows' system prompt has quotation marks that a Modelfile can't hold. Export with --to gguf, and set "
            "the system prompt where the model is called."
        )
    return f'"""{system}"""'


def context_of(most: int, trained: int) -> int:
    """Tokens of prompt and answer: as long as the rows were, and Ollama's usual context where the model has it."""
    return min(most, max(trained, USUAL_CONTEXT))
