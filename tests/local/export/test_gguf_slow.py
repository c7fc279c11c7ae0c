"""GGUF by llama.cpp's own converter, on toy models. Needs a package index once, and the last test llama.cpp itself."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from transformers import AutoTokenizer

from tests.local.conftest import CHATML, make_model
from tests.local.export.exports import JOB, order, run_export, tune
from trainers.export_folder import ExportRefused
from trainers.local.export.agreement import encode, served_answers
from trainers.local.export.sources import find_source, read_questions
from trainers.local.job_directory import replace_json
from trainers.local.serving.values import Target

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # by peft
]
TOOLS = Path(__file__).parents[3] / ".cache" / "tools"


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trainer's data folder with a tuned toy of the Llama family, whose tokenizer llama.cpp supports."""
    root = tmp_path_factory.mktemp("gguf")
    make_model(root / "base")
    make_llama_tokenizer(root / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_DTYPE", "fp32")
        tune(root / "data", root / "base")
    return root / "data"


def make_llama_tokenizer(folder: Path, extra: Sequence[str] = ("<|im_start|>",)) -> None:
    """384 tokens with byte fallback and ▁ for a space, like those of Llama 2 and Mistral."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    words = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys(words))}
    vocabulary |= {f"<free{n}>": n for n in range(len(vocabulary), 384)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in specials])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=extra,
    )
    fast.chat_template = CHATML
    fast.save_pretrained(folder)


@pytest.mark.parametrize("dtype", ["float32", "float16", "q8_0"])
def test_a_gguf_file_gives_the_same_answers_as_our_server(data: Path, tmp_path: Path, dtype: str) -> None:
    folder, messages = run_export(order(data, tmp_path / "out", "gguf", TOOLS, dtype=dtype))
    assert "of 10 answers are the same" in messages[-1]
    (file,) = folder.glob("*.gguf")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["README.md", file.name])
    reader = GGUFReader(file)
    adds = reader.get_field("tokenizer.ggml.add_bos_token")
    assert adds is not None and not adds.parts[adds.data[0]][0]


def test_an_ollama_export_has_a_modelfile_for_its_gguf_file(data: Path, tmp_path: Path) -> None:
    folder, _ = run_export(order(data, tmp_path / "out", "ollama", TOOLS))
    (file,) = folder.glob("*.gguf")
    lines = (folder / "Modelfile").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"FROM ./{file.name}"
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert "PARAMETER num_ctx 2048" in lines
    assert lines[-1] == 'SYSTEM """Sort this support ticket."""'
    assert "ollama create" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_tokenizer_that_the_converter_does_not_support_is_refused(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    tune(tmp_path / "data", tiny_model_dir)
    with pytest.raises(
        ExportRefused, match=r"can't write this model as GGUF: .*BPE pre-tokenizer was not recognized"
    ):
        run_export(order(tmp_path / "data", tmp_path / "out", "gguf", TOOLS))
    assert not (tmp_path / "out").exists()


def test_a_special_token_listed_as_a_plain_word_is_refused(tmp_path: Path) -> None:
    make_model(tmp_path / "base")
    make_llama_tokenizer(tmp_path / "base", extra=[])
    tune(tmp_path / "data", tmp_path / "base")
    with pytest.raises(ExportRefused, match=r"lists '<\|im_start\|>' as a plain word"):
        run_export(order(tmp_path / "data", tmp_path / "out", "gguf", TOOLS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["UnheardOfForCausalLM"]},
            "llama.cpp's converter doesn't support UnheardOfForCausalLM",
        ),
        (
            {"architectures": ["Llama4ForCausalLM"], "model_type": "llama4_text"},
            "so the export could not be checked",
        ),
    ],
)
def test_an_architecture_that_gguf_cannot_hold_is_refused_before_loading(
    data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    shutil.copytree(data.parent / "base", tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, **changes}))
    shutil.copytree(data, tmp_path / "data")
    job_file = tmp_path / "data" / "jobs" / JOB / "job.json"
    replace_json(job_file, {**json.loads(job_file.read_text()), "base": str(tmp_path / "base")})
    with pytest.raises(ExportRefused) as refused:
        run_export(order(tmp_path / "data", tmp_path / "out", "gguf", TOOLS))
    assert message in str(refused.value)


def test_llama_cpp_itself_gives_the_same_answers_as_our_server(data: Path, tmp_path: Path) -> None:
    assert importlib.util.find_spec("xllamacpp"), "This test runs llama.cpp: pip install xllamacpp"
    import xllamacpp  # type: ignore[import-not-found,unused-ignore]

    folder, _ = run_export(order(data, tmp_path / "out", "gguf", TOOLS, dtype="float32"))
    source = find_source(str(data / "jobs" / JOB), [])
    questions = read_questions(source, None).questions
    tokenizer = AutoTokenizer.from_pretrained(source.job.base)
    prompts = [encode(tokenizer, question) for question in questions]
    our_answers = served_answers(Target(source.job.base, source.adapter), prompts)
    options = xllamacpp.CommonParams()
    options.model.path = str(next(folder.glob("*.gguf")))
    options.n_ctx = 1024
    options.n_parallel = 1
    options.use_jinja = True
    options.warmup = False
    server = xllamacpp.Server(options)
    for question, our_answer in zip(questions, our_answers, strict=True):
        turns = [{"role": each.role, "content": each.content} for each in question.messages]
        completion = server.handle_chat_completions({"messages": turns, "temperature": 0, "max_tokens": 48})
        assert completion["choices"][0]["message"]["content"].strip() == our_answer.strip()
