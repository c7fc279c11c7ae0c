"""Group relative policy optimisation: sampled answers are rewarded by how well they agree with the right one, and
answers that are better than the others to the same question become more likely.

    advantage(answer) = (reward - mean) / (std + 1e-4)           over the answers to one question
    loss = -min(ratio * advantage, clip(ratio, 0.8, 1.2) * advantage) + beta * ratio * kl    a mean over its tokens

ratio is p(token) divided by its value when the answer was sampled (Shao et al. 2024, arXiv 2402.03300, equation 3; the
factor ratio of kl: arXiv 2512.02556). Each sample is used once, so the ratio is 1 and never clipped, but still has a
gradient. Sampling, loss and reference are TRL's, in the loop of all methods. The adapter's dropout is on only in the
training pass, not while answers are sampled or the reference is computed. With engine=vllm another program samples
(methods/sampling.py).
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import pad, use_adapter

from trainers.evaluation.scores import json_share
from trainers.evaluation.statistics import exact_match
from trainers.local.base_files import context_of_base
from trainers.local.job_directory import KEPT_ROWS, TrainingJob
from trainers.local.training import distributed
from trainers.local.training.checkpoints import CHECKPOINT_S
from trainers.local.training.data import Row, Rows, read_rows, report_rows
from trainers.local.training.errors import Pauses
from trainers.local.training.loop import TrainingMethod, TrainState
from trainers.local.training.methods import trl_setup
from trainers.local.training.methods.sampling import (
    Agreement,
    Importance,
    NewSampler,
    SampledAnswer,
    Sampler,
    SamplerFailed,
    SamplerSetup,
    spare_memory,
)
from trainers.local.training.methods.trl_setup import (
    LossOnly,
    SingleProcess,
    TrlBase,
    prepare_base,
    silent_options,
)
from trainers.local.training.metrics_logger import MetricsLogger, Scores
from trainers.local.training.packing import pack_tokens
from trainers.local.training.schedule import steps_an_epoch
from trainers.methods import GrpoParameters, Parameters, Reward

# Functions of the right answer and the model's that return 0 to 1, reading and normalising texts as the evaluation
# does.
REWARDS: Mapping[Reward, Callable[[str, str], float]] = {"exact": exact_match, "json": json_share}
STD_EPSILON = 1e-4  # the same as in TRL
LARGEST_RATIO = 3.0  # likewise, of answers that another program has written
EQUAL_STEPS = 10  # after so many steps with nothing to learn from, an event says so
LOG_INTERVAL_S = 60.0  # within a step, which may take minutes for hundreds of answers


def train(
    folder: Path,
    job: TrainingJob,
    checkpoint_s: float = CHECKPOINT_S,
    new_sampler: NewSampler | None = None,
) -> None:
    """Trains the job in `folder` and ends with adapter/ and DONE. The model writes its answers itself unless there is a
    `new_sampler`. Raises TrainingFailed or TrainingPaused."""
    begin = partial(prepare, new_sampler=new_sampler)
    trl_setup.train(folder, job, begin, Grpo.metrics, checkpoint_s)


def prepare(
    folder: Path,
    job: TrainingJob,
    logger: MetricsLogger,
    pauses: Pauses,
    new_sampler: NewSampler | None = None,
) -> Grpo:
    """Reads the rows and loads the model. Raises TrainingFailed or TrainingPaused."""

    def read(file: Path, tokenizer: Any, settings: Parameters, param: str) -> Rows:
        with distributed.rank_zero_first():
            return read_rows(
                file,
                tokenizer,
                settings.max_length,
                param,
                settings.too_long,
                folder / KEPT_ROWS,
            )

    setup = prepare_base(folder, job, logger, pauses, read)
    report_rows(logger, "Training", setup.training, setup.settings.max_length)
    if setup.validation:
        report_rows(logger, "Validation", setup.validation, setup.settings.max_length)
        logger.log("The validation loss is 1 minus the mean reward of the likeliest answers")
    settings = setup.settings
    assert isinstance(settings, GrpoParameters)  # noqa: S101 - read_job chooses the class by the method
    config = GrpoSettings(
        beta=settings.beta,
        num_generations=settings.samples,
        per_device_train_batch_size=settings.samples,  # TRL requires a multiple of num_generations
        temperature=settings.temperature,
        max_completion_length=settings.max_new_tokens,
        loss_type="grpo",
        **silent_options(folder, job, setup),
    )
    logger.log(
        f"Each step samples {settings.samples} answers of at most {settings.max_new_tokens} tokens to each of "
        f"{min(settings.batch_size, len(setup.training.rows))} questions, and then learns from them"
    )
    method = Grpo(GroupLoss(setup, config), setup, settings, job, logger)
    if new_sampler is not None:
        method.use_sampler(new_sampler, folder)
    return method


@dataclass(frozen=True)
class Question:
    """A prompt as token ids, and the right answer. `tokens` is the length of both together."""

    prompt: Sequence[int]
    answer: str
    tokens: int


def last_question(row: Row, tokenizer: Any) -> Question:
    """Splits a row into its last supervised answer and the prompt, which is everything before it."""
    start = row.last_target
    end = row.last_target + 1
    # Earlier answers in the chat belong to the prompt.
    while start > 0 and row.supervised[start - 1]:
        start -= 1
    answer = tokenizer.decode(row.ids[start:end], skip_special_tokens=True)
    return Question(
        prompt=array("i", row.ids[:start]),  # a list would take 36 bytes or more for each token
        answer=answer.strip(),
        tokens=end,
    )


@dataclass(frozen=True)
class Part:
    """Mean scores of `questions` questions. `spread` is the standard deviation of the rewards within a question. `kl`
    is the divergence from the reference in nats per token, and 0 without a reference. `importance` is None if the model
    has written the answers itself."""

    questions: int
    loss: float
    reward: float
    spread: float
    kl: float
    importance: Importance | None = None


class Grpo(TrainingMethod[Question, list[Part]]):
    metrics = ("reward_mean", "reward_std", "kl")
    forward_share = 1 / 2  # sampling answers takes about as long as learning from them

    def __init__(
        self,
        trainer: GroupLoss,
        setup: TrlBase[Rows],
        settings: GrpoParameters,
        job: TrainingJob,
        logger: MetricsLogger,
    ) -> None:
        validation: Sequence[Row] = ()
        if setup.validation:
            validation = setup.validation.rows
        self.rows = [last_question(row, setup.tokenizer) for row in setup.training.rows]
        self.validation = [last_question(row, setup.tokenizer) for row in validation]
        self.model = trainer.peft_model
        self.device = setup.device
        self.dtype = setup.dtype
        self.usual_tokens = pack_tokens(setup.device)
        self.seed = job.seed
        self._trainer = trainer
        self._settings = settings
        self._tokenizer = setup.tokenizer
        self._context = context_of_base(job.base)
        self._logger = logger
        self._job = job
        self._sampler: Sampler = trainer
        self._agreement = Agreement(logger)
        self._steps = 0
        self._has_learnt = False

    def use_sampler(self, new_sampler: NewSampler, folder: Path) -> None:
        """Lets another program write the answers of the training in `folder`."""
        longest = max(len(row.prompt) for row in (*self.rows, *self.validation))
        setup = SamplerSetup(
            folder=folder,
            job=self._job,
            settings=self._settings,
            model=self.model,
            ends=self._trainer.eos_token_ids,
            device=self.device,
            dtype=self.dtype,
            spare=spare_memory(self.model, self._settings, longest, self.device, self.dtype),
            logger=self._logger,
        )
        self._sampler = new_sampler(setup)

    def close(self) -> None:
        self._sampler.close()

    def tokens(self, rows: Sequence[Question]) -> int:
        """Counts each sampled answer as if it were as long as the right one, since its length isn't known before."""
        return self._settings.samples * sum(row.tokens for row in rows)

    @property
    def validation_tokens(self) -> int:
        """The number of tokens with one answer to each question."""
        return sum(row.tokens for row in self.validation)

    def width(self, rows: Sequence[Question]) -> int:
        answers = len(rows) * self._settings.samples
        longest_prompt = max(len(row.prompt) for row in rows)
        return answers * (longest_prompt + self._settings.max_new_tokens)

    def add_gradients(
        self,
        state: TrainState[Question, list[Part]],
        parts: list[list[Question]],
        batch: Sequence[Question],
    ) -> list[Part]:
        measured: list[Part] = []
        questions = sum(map(len, parts))
        told_at = time.monotonic()
        for rows, answers in self._sample_parts(state, parts):
            state.check_pause()  # sampling may have taken minutes
            if measured and time.monotonic() - told_at >= LOG_INTERVAL_S:
                told_at = time.monotonic()
                done = sum(part.questions for part in measured)
                self._logger.log(f"This step has learnt from the answers to {done} of {questions} questions")
            with state.cores.shared():
                rewards = self._compute_rewards(rows, answers)
                loss, part = self._trainer.measure(rows, answers, rewards)
            # By the rows of all processes, so that their gradients add up to that of the mean.
            share = len(rows) / len(batch)
            state.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
            measured.append(part)
        return measured

    def _sample_parts(
        self, state: TrainState[Question, list[Part]], parts: list[list[Question]]
    ) -> Iterator[tuple[list[Question], list[SampledAnswer]]]:
        """Yields each part with the answers to its questions. They are sampled part by part, or all at once if that is
        quicker."""
        together = [[part] for part in parts]
        if self._sampler.takes_a_step:
            together = [parts]
        for some in together:
            rows = [row for part in some for row in part]
            state.check_pause()
            with state.cores.shared():
                answers = self._generate_answers(rows, self._settings.samples)
            start = 0
            for part in some:
                end = start + len(part) * self._settings.samples
                yield part, answers[start:end]
                start = end

    def total(self, computed: list[Part]) -> Scores:
        """Returns the mean scores over the questions of all processes."""
        questions, loss, reward, spread, kl = distributed.sum_all(
            sum(part.questions for part in computed),
            sum(part.loss * part.questions for part in computed),
            sum(part.reward * part.questions for part in computed),
            sum(part.spread * part.questions for part in computed),
            sum(part.kl * part.questions for part in computed),
        )
        reward_mean = reward / questions
        more = {"reward_mean": reward_mean, "reward_std": spread / questions}
        if self._settings.beta:
            more["kl"] = kl / questions
        self._warn_if_all_equal(reward_mean, spread)
        self._report_agreement(computed)
        return Scores(loss / questions, None, more)

    def _warn_if_all_equal(self, reward: float, spread: float) -> None:
        """Warns once, early in a training, if no answer has scored better than another to the same question yet."""
        self._steps += 1
        self._has_learnt = self._has_learnt or spread > 0
        an_epoch = steps_an_epoch(len(self.rows), self._settings)
        total = self._settings.n_epochs * an_epoch
        # A short training gets the warning with its last step.
        is_time = self._steps == min(EQUAL_STEPS, total)
        if self._has_learnt or not is_time:
            return
        self._logger.warn(
            f"In {self._steps} steps all answers to each question had the same reward (now {reward:.2f} on average), "
            "so there was nothing to learn. If the model never answers right, tune it on chats first and continue from "
            "the tuned model."
        )

    def _report_agreement(self, computed: list[Part]) -> None:
        """Reports on a step whose answers another program has written."""
        weighed = [part.importance for part in computed if part.importance is not None]
        if not weighed:
            return
        gap = sum(importance.gap for importance in weighed) / len(weighed)
        left_out = sum(importance.left_out for importance in weighed)
        answers = sum(len(importance.ratio) for importance in weighed)
        self._agreement.add(gap, left_out, answers)

    def evaluate(self, state: TrainState[Question, list[Part]]) -> Scores:
        """Scores each question's likeliest answer, as the evaluation does."""
        self.model.eval()
        # A part has room for this many answers to each question. Here one is enough, so that many parts fit together.
        at_once = self._settings.samples
        if self._sampler.takes_a_step:
            at_once = len(self.validation)

        def reward_all(parts: list[list[Question]]) -> list[float]:
            rewards: list[float] = []
            for first in range(0, len(parts), at_once):
                together = parts[first : first + at_once]
                rows = [row for part in together for row in part]
                state.check_pause()
                with state.cores.shared():
                    answers = self._generate_answers(rows, 1)
                    rewards += self._compute_rewards(rows, answers)
            return rewards

        # Prompts of similar length share a part, which is padded to its longest.
        by_length = sorted(self.validation, key=lambda row: len(row.prompt))
        own_share = distributed.share(by_length, lambda row: len(row.prompt))
        rewards = state.batcher.compute_in_parts(
            own_share, reward_all, "while validating", keeps_activations=False
        )
        count, total = distributed.sum_all(len(rewards), sum(rewards))
        mean = total / count
        return Scores(1 - mean, None, {"reward_mean": mean})

    def _generate_answers(self, rows: Sequence[Question], count: int) -> list[SampledAnswer]:
        """Returns `count` answers to each row, row by row. A single answer is the likeliest; several are sampled."""
        prompts = [list(row.prompt) for row in rows for _ in range(count)]
        most = self._settings.max_new_tokens
        if self._context is not None:
            longest = max(map(len, prompts))
            room = self._context - longest
            most = max(1, min(most, room))
        is_sampled = count > 1
        try:
            return self._sampler.answer(prompts, most, is_sampled=is_sampled)
        except SamplerFailed as failure:
            self._sampler.close()
            self._sampler = self._trainer
            self._logger.warn(f"{failure} From here on the training writes its answers itself.")
        return self._sampler.answer(prompts, most, is_sampled=is_sampled)

    def _compute_rewards(
        self,
        rows: Sequence[Question],
        answers: Sequence[SampledAnswer],
    ) -> list[float]:
        """Returns the reward of each answer. `answers` has the same number of answers to each row, row by row."""
        count = len(answers) // len(rows)
        reward = REWARDS[self._settings.reward]
        tokens = [answer.tokens for answer in answers]
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        rewards = []
        for index, text in enumerate(texts):
            question = rows[index // count]
            value = reward(question.answer, text)
            rewards.append(float(value))
        return rewards


class GrpoSettings(SingleProcess, GRPOConfig):
    """TRL's settings for a single process."""


class GroupLoss(LossOnly, GRPOTrainer):
    """TRL's trainer, used only for its sampling, its loss and its reference."""

    takes_a_step = False

    def __init__(self, setup: TrlBase[Rows], config: GrpoSettings) -> None:
        super().__init__(
            model=setup.model,
            args=config,
            reward_funcs=[lambda **_: []],  # required but unused, like the dataset
            train_dataset=Dataset.from_dict({"prompt": ["-"]}),
            processing_class=setup.tokenizer,
            peft_config=setup.lora,
        )
        self.finish_setup(setup)
        self.current_gradient_accumulation_steps = 1  # TRL's own training loop would set it
        self._pad_id: int = setup.tokenizer.pad_token_id

    def answer(self, prompts: Sequence[list[int]], most: int, *, is_sampled: bool) -> list[SampledAnswer]:
        self.generation_config.max_new_tokens = most
        self.generation_config.do_sample = is_sampled
        with self._without_dropout():
            answers: list[list[int]] = self._generate_single_turn(list(prompts), None, {}, 1)[0]  # type: ignore[no-untyped-call]
        return [SampledAnswer(tokens) for tokens in answers]

    def close(self) -> None:
        """There is nothing to end: the model itself samples."""

    def measure(
        self,
        rows: Sequence[Question],
        answers: Sequence[SampledAnswer],
        rewards: Sequence[float],
    ) -> tuple[Tensor, Part]:
        """Returns the mean loss of these answers, for the backward pass, and their scores. Each row has the same number
        of answers."""
        groups = torch.tensor(rewards).view(len(rows), -1)  # (questions, answers to each)
        mean = groups.mean(1, keepdim=True)
        spread = groups.std(1, keepdim=True)
        advantages = (groups - mean) / (spread + STD_EPSILON)

        count = groups.shape[1]
        prompts = [torch.tensor(list(row.prompt)) for row in rows for _ in range(count)]
        completions = [torch.tensor(answer.tokens) for answer in answers]
        # Padding lies outside, so that an answer directly follows its prompt.
        inputs = self._pad_batch("prompt", prompts, "left")
        inputs |= self._pad_batch("completion", completions, "right")
        inputs["advantages"] = advantages.flatten().to(self.args.device)
        if self.beta:
            inputs["ref_per_token_logps"] = self._reference_logps(inputs)
        importance = self._importance(inputs, answers)
        if importance is not None:
            inputs["importance_sampling_ratio"] = importance.ratio
        # Only here: TRL's loss then multiplies by the ratio, but TRL would also ask a vLLM of its own for answers.
        self.use_vllm = importance is not None
        with self.autocast():
            loss: Tensor = self._compute_loss(self.peft_model, inputs)  # type: ignore[no-untyped-call]
        self.use_vllm = False

        noted = self._metrics["train"]
        kl = 0.0
        if self.beta:
            kl = noted["kl"][-1]
        noted.clear()  # TRL would collect them until its own loop reports them
        part = Part(
            questions=len(rows),
            loss=loss.item(),
            reward=groups.mean().item(),
            spread=spread.mean().item(),
            kl=kl,
            importance=importance,
        )
        return loss, part

    def _pad_batch(self, name: str, tokens: list[Tensor], side: str) -> dict[str, Tensor]:
        ids = pad(tokens, padding_value=self._pad_id, padding_side=side)  # answers x longest
        ones = [torch.ones_like(each) for each in tokens]
        mask = pad(ones, padding_value=0, padding_side=side)
        device = self.args.device
        return {f"{name}_ids": ids.to(device), f"{name}_mask": mask.to(device)}

    def _importance(
        self, inputs: Mapping[str, Tensor], answers: Sequence[SampledAnswer]
    ) -> Importance | None:
        """Returns None if the model itself has drawn the answers. Otherwise as TRL's mode sequence_mask."""
        drawn = [answer.logprobs for answer in answers if answer.logprobs is not None]
        if len(drawn) < len(answers):
            return None
        rows = [torch.tensor(logprobs) for logprobs in drawn]
        there = pad(rows, padding_value=0, padding_side="right").to(self.args.device)
        here = self._answer_logps(inputs)
        counts = inputs["completion_mask"]
        differences = (here - there) * counts
        ratio = differences.sum(1, keepdim=True).exp()  # (answers, 1)
        is_far = ratio > LARGEST_RATIO
        return Importance(
            ratio=ratio.masked_fill(is_far, 0),
            gap=(differences.abs().sum() / counts.sum()).item(),
            left_out=int(is_far.sum()),
        )

    def _reference_logps(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Returns the reference's log probabilities of the answers' tokens. The reference is the same as in DPO."""
        reference = None  # the plain base
        if "ref" in self.peft_model.peft_config:
            reference = "ref"
        with use_adapter(self.peft_model, reference):
            return self._answer_logps(inputs)

    def _answer_logps(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Returns the log probabilities of the answers' tokens, (answers, longest), without dropout and gradients."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        answer_tokens = inputs["completion_ids"].shape[1]
        with self._without_dropout():
            logps: Tensor = self._get_per_token_logps_and_entropies(
                self.peft_model, ids, mask, answer_tokens
            )[0]
        return logps

    @contextmanager
    def _without_dropout(self) -> Iterator[None]:
        """Turns dropout and gradients off."""
        was_training = self.peft_model.training
        self.peft_model.eval()
        try:
            with torch.no_grad(), self.autocast():
                yield
        finally:
            self.peft_model.train(was_training)
