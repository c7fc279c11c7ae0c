"""Encoders small enough to train in a test, as folders of sentence-transformers, built without a download."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.local.labelled_tickets import PROBLEMS


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


LANGUAGES = (
    "Meine Karte wurde zweimal belastet",
    "Das Paket ist nicht angekommen",
    "No puedo iniciar sesión",
    "El paquete no ha llegado",
    "注文した荷物が届きません",
    "パスワードが受け付けられません",
)


@pytest.fixture(scope="session")
def multilingual_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An XLM-RoBERTa of 2 layers with the layout of sentence-transformers: a Unigram tokenizer for three languages, its
    pooling, and an ONNX export in its own folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import XLMRobertaConfig, XLMRobertaModel

    from trainers.local.training.methods.full import export_onnx

    folder = tmp_path_factory.mktemp("encoder") / "Multilingual"
    (folder / "onnx").mkdir(parents=True)
    (folder / "1_Pooling").mkdir()
    texts = [*LANGUAGES, *(problem for problems in PROBLEMS.values() for problem in problems)]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=specials, unk_token="<unk>")
    tokenizer.train_from_iterator(texts * 20, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(20261127)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=130,
    )
    model = XLMRobertaModel(config, add_pooling_layer=False)
    model.save_pretrained(folder)
    export_onnx(model, folder / "onnx" / "model.onnx")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Multilingual\n", encoding="utf-8")
    return folder
