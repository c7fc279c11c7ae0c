"""What can't be exported is refused before anything is written, and the refusal says what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.local.export.exports import JOB, MODEL, order, run_export, write_queued_job
from tests.local.families import published
from trainers import export_folder
from trainers.export_folder import ExportRefused
from trainers.export_formats import FORMATS
from trainers.local.engines.vllm import VLLM_RANKS
from trainers.local.export.gguf_converter import install
from trainers.local.export.ollama import context_size, modelfile
from trainers.local.export.order import Form, RunMeasurements, Upload
from trainers.local.export.sources import find_source, read_questions
from trainers.local.export.vllm import check_vllm, vllm_command
from trainers.local.export.weights import open_base
from trainers.local.job_directory import replace_json


@pytest.fixture
def job(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A job marked as done, whose adapter can't be loaded."""
    folder = write_queued_job(tmp_path / "data", tiny_model_dir)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "adapter" / "adapter_config.json").write_text('{"r": 4}')
    replace_json(folder / "DONE", {})
    return folder


def refusal(job: Path, to: Any = "merged", **changes: Any) -> str:
    root = job.parents[2]
    with pytest.raises(ExportRefused) as refused:
        run_export(order(job.parents[1], changes.pop("out", root / "out"), to, **changes))
    assert not list(root.glob(".out-*"))
    return str(refused.value)


def remove_done(job: Path) -> None:
    (job / "DONE").unlink()


def mark_cancelled(job: Path) -> None:
    remove_done(job)
    replace_json(job / "CANCELLED", {})


def mark_failed(job: Path) -> None:
    remove_done(job)
    replace_json(job / "FAILED", {"code": "invalid_row", "message": "Line 3 is too long."})


def delete_model(job: Path) -> None:
    shutil.rmtree(job / "adapter")
    replace_json(job / "MODEL_DELETED", {})


def remove_weights(job: Path) -> None:
    (job / "adapter" / "adapter_model.safetensors").unlink()


def remove_rows(job: Path) -> None:
    (job / "train.jsonl").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_done, f"The job {JOB} has not ended."),
        (mark_cancelled, "was cancelled, so there is no finished model"),
        (mark_failed, "The reason was: Line 3 is too long."),
        (delete_model, f"The model {MODEL} was deleted with its weights. Train it again"),
        (remove_weights, "has no adapter_model.safetensors"),
        (remove_rows, "are gone, so its export could not be checked. Give a chat JSONL file"),
    ],
)
def test_a_job_without_a_complete_model_is_refused(
    job: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(job)
    assert message in refusal(job)


def test_a_missing_checkpoint_is_refused_with_the_available_ones(job: Path) -> None:
    (job / "checkpoints" / "step-000012").mkdir(parents=True)
    assert f"Available checkpoints: {MODEL}:ckpt-step-12." in refusal(job, model=f"{MODEL}:ckpt-step-7")


def test_a_folder_without_a_job_is_refused(job: Path) -> None:
    assert "has no job.json" in refusal(job, model=str(job.parent))


def test_an_output_path_in_use_is_refused(job: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    assert "is a file or a link" in refusal(job, out=tmp_path / "file")
    assert "is not empty, and an export overwrites nothing" in refusal(job, out=tmp_path / "full")
    assert f"{tmp_path / 'file'} is a file, so" in refusal(job, out=tmp_path / "file" / "below")


def test_a_full_disk_is_refused_with_the_needed_size(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_folder, "SPARE_BYTES", 10**18)
    assert "The export needs 1,000,000,000.0 GB on the disk of" in refusal(job)


HUB = {"base_id": "org/tiny", "licence": "mit"}


@pytest.mark.parametrize(
    ("to", "changes", "message"),
    [
        ("merged", {"dtype": "q8_0"}, "can't be written in q8_0. Choose float32, float16, bfloat16"),
        ("vllm", {"dtype": "float16"}, "--dtype is for --to merged, gguf and ollama and doesn't apply"),
        ("merged", {"upload": Upload("org/name", False)}, "--repo is for --to hub"),
        ("hub", {}, "Give it with --base-id ORG/NAME."),
        ("hub", {"base_id": "org/tiny"}, "Look it up and give it with --licence ID"),
        ("hub", {**HUB, "upload": Upload("org/name", False)}, "needs a token that may write there"),
        ("hub", {**HUB, "upload": Upload("my repo", False)}, "write it as ORG/NAME"),
    ],
)
def test_options_that_do_not_fit_the_export_form_are_refused(
    job: Path, monkeypatch: pytest.MonkeyPatch, to: str, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert message in refusal(job, to, **changes)


def test_nothing_is_merged_into_a_quantised_base(job: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    quantised = tmp_path / "quantised"
    shutil.copytree(tiny_model_dir, quantised)
    config = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    fields = json.loads((job / "job.json").read_text())
    replace_json(job / "job.json", {**fields, "base": str(quantised)})
    assert "is stored quantised, so nothing can be merged into it exactly" in refusal(job)


def test_a_bases_licence_is_read_from_its_card(tmp_path: Path, tiny_model_dir: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model_dir, base)
    (base / "README.md").write_text("---\nlanguage:\n- en\nlicense: llama3.1\n---\n# Tiny\n\nlicense: none")
    assert open_base(str(base), "tiny", None, None).licence == "llama3.1"
    assert open_base(str(base), "tiny", None, "mit").licence == "mit"
    assert open_base(str(tiny_model_dir), "tiny", None, None).licence is None


@pytest.mark.parametrize(("rank", "supported"), [(1, 1), (4, 8), (8, 8), (512, 512)])
def test_vllm_gets_the_next_rank_that_it_supports(
    job: Path, tiny_model_dir: Path, rank: int, supported: int
) -> None:
    (job / "adapter" / "adapter_config.json").write_text(json.dumps({"r": rank}))
    source = find_source(MODEL, [job.parents[1]])
    base = open_base(str(tiny_model_dir), "tiny", "org/tiny", None)
    assert supported in VLLM_RANKS
    command = vllm_command(source, base, "tickets-7")
    assert command == (
        f"vllm serve org/tiny --enable-lora --max-lora-rank {supported} --lora-modules tickets-7=./adapter"
    )


def test_vllm_is_told_not_to_think_if_the_base_can(job: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "thinker")
    (folder / "chat_template.jinja").write_text(published("qwen3_5_think"))
    base = open_base(str(folder), "tiny", "org/tiny", None)
    command = vllm_command(find_source(MODEL, [job.parents[1]]), base, "tickets-7")
    assert command.endswith(""" --default-chat-template-kwargs '{"enable_thinking": false}'""")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 513}, "rank is 513; vLLM supports at most 512"),
        ({"r": 8, "target_parameters": ["experts.gate_up_proj"]}, "matrices on fused experts"),
        ({"r": 8, "use_dora": True}, "DoRA's magnitudes"),
    ],
)
def test_an_adapter_that_vllm_cannot_load_is_refused(job: Path, config: dict[str, Any], message: str) -> None:
    (job / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ExportRefused, match=message):
        check_vllm(find_source(MODEL, [job.parents[1]]))


def test_each_export_form_has_a_module_and_a_row_in_the_docs() -> None:
    docs = (Path(__file__).parents[3] / "docs" / "export.md").read_text(encoding="utf-8")
    for form in FORMATS.values():
        module = import_module(f"trainers.local.export.{form.name}")
        if form.name != "onnx":  # for encoders, which have their own pipeline
            assert all(callable(getattr(module, name)) for name in vars(Form) if not name.startswith("_"))
        assert f"| `{form.name}` | {form.writes} | {form.start} |\n" in docs
    # coreweave writes no folder: the bot's own code uploads the adapter there.
    assert f"--to {'|'.join(FORMATS)}|coreweave " in docs


def test_questions_are_spread_over_the_training_file(job: Path) -> None:
    sample = read_questions(find_source(MODEL, [job.parents[1]]), None)
    numbers = [int(each.messages[-1].content.split(":")[0].split()[1]) for each in sample.questions]
    assert numbers == [0, 2, 4, 7, 9, 12, 14, 16, 19, 21]
    assert sample.system == "Sort this support ticket."


def test_rows_without_a_question_and_an_answer_are_refused(job: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    assert "no plain question with an answer" in refusal(job, rows=tmp_path / "rows.jsonl")
    for line in ("{", "5", '{"messages": ["hi"]}', '{"messages": 5}', '{"input": {}, "preferred_output": 5}'):
        (tmp_path / "rows.jsonl").write_text(line)
        assert "Line 1 of" in refusal(job, rows=tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text('{"messages": [], "tools": [5]}')
    assert "Line 1 of" in refusal(job, rows=tmp_path / "rows.jsonl")


def test_unreadable_measurements_of_a_run_are_refused() -> None:
    with pytest.raises(ExportRefused, match="The run's measurements can't be read"):
        RunMeasurements.from_json('{"tuned": 3}')


def test_a_system_prompt_that_a_modelfile_cannot_quote_is_refused(tmp_path: Path) -> None:
    from trainers.local.export.ollama import ChatTemplate

    plain = ChatTemplate({("start", "user"): "Q: ", ("user", "end"): "\nA: "}, None)
    with pytest.raises(ExportRefused, match="quotation marks that a Modelfile can't express"):
        modelfile(tmp_path / "m.gguf", plain, ["</s>"], 4096, 'Say """hi"""')


def test_a_converter_that_downloads_too_slowly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(command: Any, timeout: float, **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(ExportRefused, match="it did not end within 300 s"):
        install(tmp_path)
    assert not list(tmp_path.iterdir())


def test_finding_a_model_deletes_nothing(job: Path) -> None:
    leftover = job.parent / f".{JOB}-1a2b3c4d"  # the server is deleting it
    leftover.mkdir()
    find_source(MODEL, [job.parents[1]])
    assert leftover.exists()


def test_ollamas_context_covers_the_rows_within_the_models_limit() -> None:
    assert context_size(131072, 1024) == 4096
    assert context_size(131072, 8192) == 8192
    assert context_size(2048, 8192) == 2048


def test_an_adapter_whose_base_has_changed_is_refused(job: Path) -> None:
    replace_json(job / "base.json", {"fingerprint": "other weights"})
    assert "have changed since" in refusal(job)
