"""The cross entropy of many tokens without all their logits in memory.

For 8,192 tokens and 128,000 words, logits, their log-softmax and both gradients would take 17 GB. Here the head
computes some tokens at a time. Their gradient is computed at once, so that their logits can be freed before the next
tokens (Hsu et al. 2024, "Liger Kernel", section 3.2):

    z  = head(h)        h: (K, hidden)    z: (K, words), in chunks of tokens
    p  = softmax(z)     loss = Σ -log p[target]
    ∂z = p - 1[target]  ∂h and the gradients of the head's own trained weights by autograd from ∂z

The head is everything that the model's class does after its decoder, with scales, soft caps and adapters: the class's
own forward is called with a decoder that only returns the states of these tokens. So nothing here depends on a family.
A trial shows whether a class allows that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Logits (K times words) from which on the head works in chunks. Below, autograd's own 16 bytes each are little.
MANY_LOGITS = 2**25
# Logits of a chunk. At 8 bytes each that is half a GB, and enough tokens to keep a GPU busy.
CHUNK_LOGITS = 2**26
TRIAL_TOKENS = 6
TOLERANCE = 1e-5  # of the largest logit
TOLERANCE_NARROW = 0.02  # for bfloat16 and float16


@dataclass(frozen=True)
class ChunkedHead:
    """The part of a causal language model after its decoder. `model` is the model without peft's wrapper, `decoder` its
    child whose `last_hidden_state` the head reads, and `words` the size of the vocabulary."""

    model: Any
    decoder: nn.Module
    words: int

    def pays_for(self, tokens: int) -> bool:
        """True if the logits of so many tokens are too many to keep."""
        return tokens * self.words > MANY_LOGITS

    def measure(
        self,
        call: Callable[..., Any],
        inputs: Mapping[str, Any],
        predicting: Tensor,
        targets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns the summed cross entropy in nats, for the backward pass, and how many targets are the likeliest word.
        `call` is the model with its wrappers, and `inputs` what it is called with. `predicting` (K,) are positions in
        all rows one after the other, and `targets` (K,) words."""
        right: list[Tensor] = []

        def finish_in_chunks(states: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
            total, correct = self._loss(states.flatten(0, 1)[predicting], targets, head)
            right.append(correct)
            return total

        with self._finished_by(finish_in_chunks):
            total: Tensor = call(**inputs).logits
        return total, right[0]

    def select(self, call: Callable[..., Any], inputs: Mapping[str, Any], predicting: Tensor) -> Tensor:
        """Returns the logits (K, words) at the positions `predicting` (K,) in all rows one after the other."""
        decode = self.decoder.forward

        def decode_and_select(*args: Any, **kwargs: Any) -> Any:
            outputs = decode(*args, **kwargs)
            states = outputs.last_hidden_state.flatten(0, 1).index_select(0, predicting)
            return _with_states(outputs, states[None])

        with _replaced(self.decoder, decode_and_select):
            logits: Tensor = call(**inputs).logits
        return logits.squeeze(0)  # not [0], whose backward pass would copy all logits

    @contextmanager
    def _finished_by(self, finish: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]) -> Iterator[None]:
        """Makes the model return as logits what `finish` returns for the decoder's states (rows, T, hidden) and for the
        head, a function of states (K, hidden) that returns logits (K, words).

        The loss is computed inside the model's own call, because a base that is divided among processes has its weights
        only there."""
        decode = self.decoder.forward
        compute = self.model.forward
        results: list[Tensor] = []

        def forward(*args: Any, **kwargs: Any) -> Any:
            def head(states: Tensor) -> Tensor:
                def return_states(*_: Any, **__: Any) -> Any:
                    return _with_states(outputs[0], states[None])

                with _replaced(self.decoder, return_states):
                    logits: Tensor = compute(*args, **kwargs).logits
                return logits.squeeze(0)  # not [0], whose backward pass would copy all logits

            outputs: list[Any] = []

            def decode_and_finish(*inner: Any, **more: Any) -> Any:
                outputs.append(decode(*inner, **more))
                states = outputs[0].last_hidden_state
                results.append(finish(states, head))
                return _with_states(outputs[0], states[:, :1])  # the class wants something to compute

            with _replaced(self.decoder, decode_and_finish):
                output = compute(*args, **kwargs)
            output.logits = results.pop()
            return output

        with _replaced(self.model, forward):
            yield

    def _loss(
        self, states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        size = max(1, CHUNK_LOGITS // self.words)
        if not torch.is_grad_enabled():
            parts = zip(torch.split(states, size), torch.split(targets, size), strict=True)
            losses = [_cross_entropy(head(part), words) for part, words in parts]
            return _sum(loss.total for loss in losses), _sum(loss.right for loss in losses)
        total: Tensor
        right: Tensor
        total, right = _ChunkedLoss.apply(states, targets, head, size, *self._trained_weights())  # type: ignore[no-untyped-call]
        return total, right

    def _trained_weights(self) -> list[Tensor]:
        """Returns the trained weights outside the decoder, and the head's, which may also be its embeddings."""
        modules = [child for child in self.model.children() if child is not self.decoder]
        modules.append(self.model.get_output_embeddings())
        weights: dict[Tensor, None] = {}  # in their order, and each only once
        for module in modules:
            if module is not None:
                weights |= dict.fromkeys(module.parameters())
        return [weight for weight in weights if weight.requires_grad]


def find_chunked_head(model: Any) -> ChunkedHead | None:
    """Returns the head of a loaded model, or None if a trial shows that it doesn't give the model's own logits by
    itself."""
    table = model.get_input_embeddings()
    # Not get_decoder(), which in Llama 4 is the model itself, and in models that see is only a part of this child.
    around = [child for child in model.children() if any(module is table for module in child.modules())]
    if len(around) != 1 or model.get_output_embeddings() is None:
        return None
    words = len(table.weight)
    # The middle half of the vocabulary: tokens that stand for pictures are near one of its ends.
    ids = torch.linspace(words // 4, 3 * words // 4, TRIAL_TOKENS).long()[None].to(table.weight.device)
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits[0]
        head = ChunkedHead(model, around[0], expected.shape[-1])
        halves: list[Tensor] = []

        def finish_in_halves(states: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
            halves.extend(apply(half) for half in torch.split(states[0], TRIAL_TOKENS // 2))
            return halves[0]

        try:
            with head._finished_by(finish_in_halves):
                model(input_ids=ids, use_cache=False)
        except (
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            RuntimeError,
        ):  # it needs more than states
            return None
    if _agree(torch.cat(halves), expected):
        return head
    return None


def _agree(logits: Tensor, expected: Tensor) -> bool:
    tolerance = TOLERANCE_NARROW
    if expected.dtype == torch.float32:
        tolerance = TOLERANCE
    finite = expected[expected.isfinite()]
    if logits.shape != expected.shape or not len(finite):
        return False
    largest = float(finite.abs().max())
    return torch.allclose(logits, expected, rtol=0, atol=tolerance * largest, equal_nan=True)


@dataclass(frozen=True)
class _Chunk:
    """`total` is the summed loss of some tokens and `right` how many were predicted. `gradient` (tokens, words) is that
    of `total` with respect to the logits, in float32."""

    total: Tensor
    right: Tensor
    gradient: Tensor


def _cross_entropy(logits: Tensor, targets: Tensor) -> _Chunk:
    """Uses one float32 copy of the logits for everything, since each copy of half a GB counts."""
    wide = logits.detach().to(torch.float32, copy=True)
    largest, likeliest = wide.max(-1, keepdim=True)
    wide.sub_(largest)
    of_target = wide.gather(1, targets[:, None])
    wide.exp_()
    sums = wide.sum(-1, keepdim=True)
    total = (sums.log() - of_target).sum()
    right = (likeliest[:, 0] == targets).sum()
    wide.div_(sums)
    wide[torch.arange(len(targets), device=targets.device), targets] -= 1
    return _Chunk(total, right, wide)


def _measure_chunk(
    states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor | None]]:
    """Returns the summed loss, how many targets are the likeliest word, and the gradients of states and weights. A
    function of its own, so that the logits are freed before the next chunk's."""
    part = states.detach().requires_grad_()
    with torch.enable_grad():
        logits = head(part)
    chunk = _cross_entropy(logits, targets)
    gradient = chunk.gradient.to(logits.dtype)
    of_part, *of_weights = torch.autograd.grad(logits, [part, *weights], gradient, allow_unused=True)
    return chunk.total, chunk.right, of_part, of_weights


class _ChunkedLoss(torch.autograd.Function):
    """Computes the gradient in the forward pass, chunk by chunk, and only scales it in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        targets: Tensor,
        head: Callable[[Tensor], Tensor],
        size: int,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        state_gradient = torch.zeros_like(states)
        weight_gradients = [torch.zeros_like(weight) for weight in weights]
        total = torch.zeros((), device=states.device)
        right = torch.zeros((), dtype=torch.int64, device=states.device)
        for start in range(0, len(states), size):
            chunk = slice(start, start + size)
            loss, correct, gradient, others = _measure_chunk(states[chunk], targets[chunk], head, weights)
            total += loss
            right += correct
            state_gradient[chunk] = gradient
            for summed, other in zip(weight_gradients, others, strict=True):
                if other is not None:
                    summed += other
        ctx.save_for_backward(state_gradient, *weight_gradients)
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        states, *weights = ctx.saved_tensors
        return states * gradient, None, None, None, *(weight * gradient for weight in weights)


def _sum(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()


def _with_states(outputs: Any, states: Tensor) -> Any:
    """Returns a copy of the decoder's outputs with other states."""
    changed = copy.copy(outputs)
    changed["last_hidden_state"] = states
    return changed


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Makes `module` compute with another function, as long as the context lasts."""
    earlier = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if earlier is not None:
            module.forward = earlier
