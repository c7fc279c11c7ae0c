"""An encoder small enough to train in a test, as a folder of sentence-transformers: made here, nothing downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.local.labelled import PROBLEMS


@pytest.fixture(scope="session")
def tiny_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers, hidden size 32, with an ONNX export; words are its tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    from trainers.local.training.methods.full import export_onnx

    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    folder.mkdir()
    words = {
        word for problems in PROBLEMS.values() for problem in problems for word in problem.lower().split()
    }
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(words | {"order", ":"})]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(pieces)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(20261127)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    model = BertModel(config, add_pooling_layer=False)
    model.save_pretrained(folder)
    export_onnx(model, folder / "model.onnx")
    return folder
