"""Exports of a tuned toy model: each answers like our server, and the job's own files stay as they are."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.local.export.exports import JOB, MODEL, order, run_export, tune, write_questions
from tests.local.preferences import pair
from tests.local.reference import load_reference
from trainers.export_folder import AnswersDiffer, ExportRefused, folder_when_complete
from trainers.local.export import hub, vllm
from trainers.local.export.agreement import Comparison, ModelAnswer, compare, encode, judge_answer
from trainers.local.export.order import RunMeasurements, Score
from trainers.local.export.sources import WEIGHTS, find_source, read_questions
from trainers.local.export.weights import load, open_base
from trainers.local.job_directory import read_job, write_job
from trainers.methods import DpoParameters

pytestmark = [
    pytest.mark.deep,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # by peft
]
SAME = "answers are the same, letter by letter"


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A trainer's data folder with one tuned model."""
    folder = tmp_path_factory.mktemp("trainer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_DTYPE", "fp32")
        tune(folder, tiny_model_dir)
    return folder


@pytest.fixture(scope="module")
def merged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict[str, str]]:
    """The export's folder and messages, and the checksums of the job's files before it."""
    before = checksums(data / "jobs" / JOB)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_DTYPE", "fp32")
        folder, messages = run_export(order(data, tmp_path_factory.mktemp("out") / "merged", "merged"))
    return folder, messages, before


def checksums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def card_fields(folder: Path) -> dict[str, Any]:
    data: Any = ModelCard((folder / "README.md").read_text(encoding="utf-8")).data
    return dict(data.to_dict())


def test_merged_weights_are_the_bases_plus_the_scaled_product(
    merged: Any, data: Path, tiny_model_dir: Path
) -> None:
    name = "model.layers.1.mlp.up_proj"
    adapter = load_file(data / "jobs" / JOB / "adapter" / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    base = load_file(tiny_model_dir / "model.safetensors")[f"{name}.weight"]
    written = load_file(merged[0] / "model.safetensors")[f"{name}.weight"]
    assert torch.allclose(written, base + 8 / 4 * (b @ a), atol=1e-6)
    assert not torch.allclose(written, base, atol=1e-3)


def test_a_merged_export_gives_the_same_ten_answers(merged: Any) -> None:
    folder, messages, _ = merged
    assert f"10 of 10 {SAME}" in messages[-1]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"10 of 10 {SAME}" in card
    assert "the logits differ from those of base and adapter by" in card
    assert (folder / "chat_template.jinja").is_file()
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())
    assert "vllm serve . --served-model-name local-tiny-local-tickets-feedbeef" in card


def test_an_export_leaves_the_jobs_files_unchanged(merged: Any, data: Path) -> None:
    assert checksums(data / "jobs" / JOB) == merged[2]


@pytest.mark.slow
def test_a_merged_export_can_have_fewer_bits(data: Path, tmp_path: Path) -> None:
    folder, _ = run_export(order(data, tmp_path / "half", "merged", dtype="float16"))
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    assert "weights in float16" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_model_trained_on_pairs_is_compared_on_their_questions(data: Path, tmp_path: Path) -> None:
    job = tmp_path / JOB
    shutil.copytree(data / "jobs" / JOB, job)
    rows = [pair(question=f"my card was charged twice ({number})") for number in range(3)]
    for row in rows:
        row["input"]["messages"].insert(0, {"role": "system", "content": "Sort it."})
    (job / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    supervised = read_job(job)
    settings = DpoParameters(**{**vars(supervised.settings), "too_long": "truncate"})
    write_job(
        job, replace(supervised, method="dpo", settings=settings, training_file=str(job / "train.jsonl"))
    )
    folder, messages = run_export(order(tmp_path, tmp_path / "out", "vllm", model=str(job)))
    assert f"3 of 3 {SAME}" in messages[-1]
    assert read_questions(find_source(str(job), ()), None).system == "Sort it."
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Rows longer than 1,024 tokens were cut to that length." in card


def test_a_checkpoint_is_exported_by_its_name(data: Path, tmp_path: Path) -> None:
    rows = write_questions(tmp_path)
    folder, _ = run_export(order(data, tmp_path / "early", "vllm", model=f"{MODEL}:ckpt-step-24", rows=rows))
    weights = Path("adapter_model.safetensors")
    checkpoint = data / "jobs" / JOB / "checkpoints" / "step-000024"
    assert (folder / "adapter" / weights).read_bytes() == (checkpoint / weights).read_bytes()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "the checkpoint of step 24" in card
    assert "a checkpoint from before the end of training" in card


def test_an_export_for_vllm_has_a_peft_adapter_and_a_supported_rank(
    data: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    (tmp_path / "there").mkdir()
    rows, job = write_questions(tmp_path), data / "jobs" / JOB
    folder, messages = run_export(order(data, tmp_path / "there", "vllm", model=str(job), rows=rows))
    assert f"2 of 2 {SAME}" in messages[-1]
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), folder / "adapter")
    script = (folder / "serve.sh").read_text(encoding="utf-8")
    assert f"vllm serve {tiny_model_dir} --enable-lora --max-lora-rank 8 --lora-modules" in script
    assert subprocess.run(["sh", "-n", str(folder / "serve.sh")], check=False).returncode == 0
    assert (folder / "serve.sh").stat().st_mode & 0o100


def test_the_card_of_a_model_without_a_run_says_nothing_was_measured(merged: Any) -> None:
    folder, _, before = merged
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "This model was not measured on held-out rows." in text
    assert "look it up before you pass this model on" in text
    training = next(path for path in before if path.endswith("train.jsonl"))
    assert f"training file: 24 rows, sha256 `{before[training]}`" in text
    assert "validation file: none" in text
    assert "| lora_r | 4 |" in text
    assert "license" not in card_fields(folder)


def test_an_adapter_has_float32_weights_on_any_base(data: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    source = find_source(MODEL, [data])
    base = replace(open_base(str(tiny_model_dir), "tiny", "org/tiny", "mit"), dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(source.adapter / WEIGHTS).values()} == {torch.float32}
    for form in (vllm, hub):
        assert form.plan(order(data, tmp_path / "out", "vllm"), source, base).dtype == "float32"


def test_the_card_of_a_runs_model_has_its_scores_and_metadata(data: Path, tmp_path: Path) -> None:
    facts = RunMeasurements(
        *("tickets-7", 7, "planhash", "tickets", "cafe", 24, 200, "beef", "share of right answers"),
        tuned=Score("this model", 0.935, 0.892, 0.961),
        against=(Score("the untuned base", 0.27, 0.213, 0.335),),
        p_value=0.00002,
    )
    hub_order = order(
        data,
        tmp_path / "hub",
        "hub",
        measured=facts,
        base_id="org/tiny",
        licence="apache-2.0",
        rows=write_questions(tmp_path),
    )
    folder, _ = run_export(hub_order)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "| this model | 93.5% | 89.2% to 96.1% |" in text
    assert "| the untuned base | 27.0% | 21.3% to 33.5% |" in text
    assert "p = 2e-05" in text
    assert card_fields(folder) == {
        "license": "apache-2.0",
        "base_model": "org/tiny",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "fine-tuned"],
    }
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/tiny"


def test_a_refused_command_names_the_models_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainers.local.export", "ft:local/tiny:local::00000000"]
    options = [
        "--to",
        "merged",
        "--out",
        str(tmp_path / "out"),
        "--data",
        str(data),
        "--tools",
        str(tmp_path),
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"Available: {MODEL}." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_other_answers_is_detected(merged: Any, tiny_model_dir: Path) -> None:
    tuned, base = load(merged[0]), load(tiny_model_dir)
    prompt = tuned.tokenizer(
        "<|im_start|>user\nTicket 4: my card<|im_end|>\n<|im_start|>assistant\n"
    ).input_ids
    question = [{"role": "user", "content": "Ticket 4: my card"}]
    expected, _ = load_reference(merged[0]).reply(question, 48)
    answer = compare(tuned, [prompt], [expected], 0.01)
    assert answer == Comparison(1, 0, 0.01)
    with pytest.raises(AnswersDiffer, match="Question 1 of 1: the tuned model answers"):
        compare(base, [prompt], [expected], 0.01)


class Letters:
    """A tokenizer whose tokens are letters. 0 ends an answer."""

    def decode(self, tokens: list[int], **_: Any) -> str:
        return "".join(chr(token) for token in tokens if token)


@pytest.mark.parametrize(
    ("our_answer", "exported", "expected"),
    [
        ("ab", ModelAnswer("ab", [[97], [98], [0]], [97, 98, 0]), "same"),
        ("ac", ModelAnswer("ab", [[97], [98, 99], [0]], [97, 98, 0]), "near tie"),
        ("ac", ModelAnswer("ab", [[97], [98], [0]], [97, 98, 0]), "different"),
        ("a", ModelAnswer("ab", [[97], [98, 0], [0]], [97, 98, 0]), "near tie"),
        ("abc", ModelAnswer("ab", [[97], [98], [0, 99]], [97, 98, 0]), "near tie"),
        ("abc", ModelAnswer("ab", [[97], [98], [0]], [97, 98, 0]), "different"),
    ],
)
def test_answers_that_differ_at_a_near_tie_are_not_different(
    our_answer: str, exported: ModelAnswer, expected: str
) -> None:
    assert judge_answer(our_answer, exported, Letters(), [0]) == expected


def test_a_question_with_tools_is_compared_with_its_tools(
    data: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Does it rain?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        {"role": "assistant", "content": "It does not."},
    ]
    tool = {"type": "function", "function": {"name": "weather"}}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages, "tools": [tool]}))
    (question,) = read_questions(find_source(MODEL, [data]), tmp_path / "rows.jsonl").questions
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    prompt = str(tokenizer.decode(encode(tokenizer, question)))
    assert json.dumps(tool) in prompt
    assert prompt.endswith("Does it rain?<|im_end|>\n<|im_start|>assistant\n")
    _, progress = run_export(order(data, tmp_path / "merged", "merged", rows=tmp_path / "rows.jsonl"))
    assert "1 of 1 answers are the same" in progress[-1]


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AnswersDiffer), folder_when_complete(tmp_path / "out") as folder:
        (folder / "model.safetensors").write_bytes(b"half")
        raise AnswersDiffer("other answers")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_disk_that_fills_up_during_an_export_refuses_it(tmp_path: Path, kind: type[Exception]) -> None:
    full = kind("No space left on device")
    with (
        pytest.raises(ExportRefused, match=r"No space left on device\. .*free some space"),
        folder_when_complete(tmp_path / "out", (OSError, SafetensorError)),
    ):
        raise full
    assert list(tmp_path.iterdir()) == []
