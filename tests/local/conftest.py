"""A chat model small enough to train in a test, built here within a second without a download."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import pytest

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SEED_TEXT = [
    "system user assistant",
    "Sort this support ticket. Answer with one label: billing, shipping, login.",
    "My card was charged twice for one order. The parcel has not arrived. I cannot sign in.",
]


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers, hidden size 64, in safetensors; a byte-level BPE tokenizer that knows ChatML."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_tokenizer(folder)
    make_model(folder)
    return folder


@pytest.fixture(scope="session")
def babbling_model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """The tiny model with weights so large that every previous token matters: it answers no two questions alike."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("model") / "babbling"
    shutil.copytree(tiny_model_dir, folder)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(12)
    model.save_pretrained(folder)
    return folder


def make_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SEED_TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    fast.chat_template = CHATML
    fast.save_pretrained(folder)


def make_model(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(20261124)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.15,  # at the usual 0.02 a frozen random head leaves LoRA nothing to choose between
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def exact_numbers() -> Iterator[None]:
    """Trains in float32 in one thread, so that results are the same to the last byte."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_DTYPE", "fp32")
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    hide("bitsandbytes", monkeypatch)


@pytest.fixture
def without_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    hide("trl", monkeypatch)


def hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the package look as if it were not installed."""

    class Hiding(PathFinder):
        @classmethod
        def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            return None if fullname == package else super().find_spec(fullname, path, target)

    others = [finder for finder in sys.meta_path if finder is not PathFinder]
    monkeypatch.setattr(sys, "meta_path", [*others, Hiding])
    monkeypatch.delitem(sys.modules, package, raising=False)
