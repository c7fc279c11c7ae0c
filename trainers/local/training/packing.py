"""Packs the rows of a batch into one sequence, without padding and with their common beginning only once.

    ids        p p p  a a a  b b        p: the tokens with which every row begins; a, b: the rest of each row
    positions  0 1 2  3 4 5  3 4
    seen by b  p p p         b b        each row sees the common beginning and itself, through a mask or a layout

Tokens after a row's last supervised token are never computed. A model that would see across rows all the same, such as
a recurrent one, gets one row at a time. This module builds tensors and computes the loss; it neither reads rows nor
trains.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from trainers.local.kernels.block_attention import BY_BLOCKS, MAX_MASKED_TOKENS, Blocks, build_blocks
from trainers.local.kernels.chunked_loss import ChunkedHead
from trainers.local.kernels.fused_layers import KeptPositions
from trainers.local.kernels.shared_prefix_attention import BY_ROWS, RowLayout, build_row_layout
from trainers.local.training.data import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Families whose attention uses the given mask and positions unchanged; tested in tests/local/training/test_packing.py.
PACKED_FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "olmo2", "smollm3"),
    *("gemma3_text", "gemma3", "mistral3", "ministral3", "llama4_text"),
    *("granite", "glm4", "olmo3", "cohere2", "qwen3_moe", "mixtral"),
)
# Packs of so many tokens where attention needs a mask: at 8,192 it would compute all pairs of tokens without flash
# kernels, and on MPS keep 4 GB of scores a layer.
MASKED_TOKENS = 2048


class Model(Protocol):
    """A causal language model of transformers, with or without an adapter."""

    def __call__(self, **inputs: Tensor | RowLayout | Blocks | bool | None) -> Output: ...


class Output(Protocol):
    logits: Tensor


@dataclass(frozen=True)
class Pack:
    """T tokens in one sequence, of which K predict a supervised token.

    `input_ids` and `positions` are (1, T). `mask` (1, 1, T, T) is added to the attention scores; None means the plain
    causal mask. If attention is computed by rows or by blocks, `layout` replaces the mask. `predicting` (K,) are
    positions in the sequence, and `targets` (K,) the token ids to predict there.
    """

    input_ids: Tensor
    positions: Tensor
    mask: Tensor | None
    predicting: Tensor
    targets: Tensor
    layout: RowLayout | Blocks | None = None


@dataclass(frozen=True)
class Abilities:
    """What a model can do. `packs`: rows in one sequence, of at most `widest` tokens, don't see each other. `selects`:
    the head can be applied to selected tokens only. `by_rows`, `by_blocks`: attention takes a layout. `kept_positions`:
    the last layer's feed-forward part is computed only at these positions. `head`: the head works in chunks of
    tokens if their logits are many."""

    packs: bool
    selects: bool
    widest: int = sys.maxsize
    by_rows: bool = False
    by_blocks: bool = False
    kept_positions: KeptPositions | None = None
    head: ChunkedHead | None = None


@dataclass(frozen=True)
class Loss:
    """`total` is the sum over `tokens` supervised tokens, in nats. The model predicted `right` of them as the
    likeliest."""

    total: Tensor
    tokens: int
    right: int


def find_abilities(model: PreTrainedModel, longest: int) -> Abilities:
    """Returns what `model` can do with rows of at most `longest` tokens."""
    text = model.config.get_text_config().to_dict()
    attention = model.config._attn_implementation
    widest = sys.maxsize
    if text.get("attn_temperature_tuning"):
        # Llama 4 scales attention by the position in the sequence from position floor_scale on.
        widest = int(text["floor_scale"]) - 1
    fits = longest <= max_packed_length(text)
    parameters = inspect.signature(model.forward).parameters
    return Abilities(
        packs=fits and model.config.model_type in PACKED_FAMILIES,
        selects="logits_to_keep" in parameters,
        widest=widest,
        by_rows=attention == BY_ROWS,
        by_blocks=attention == BY_BLOCKS,
    )


def max_packed_length(text: Mapping[str, Any]) -> int:
    """Returns how long a row may be so that the model computes the same in a pack as for the row alone. `text` is the
    configuration of the text part.

    A row must fit into a sliding window and into an attention chunk. Rotary embeddings that stretch with the longest
    row (dynamic, and longrope of Phi-4-mini) would be stretched for all rows of a pack.
    """
    limits = [text.get("sliding_window"), text.get("attention_chunk_size")]
    for rope in _stretching_ropes(text):
        own = rope.get("original_max_position_embeddings") or text.get("original_max_position_embeddings")
        limits.append(own or text.get("max_position_embeddings"))
    present = [int(limit) for limit in limits if limit]
    return min(present, default=sys.maxsize)


def stretches_positions(text: Mapping[str, Any]) -> bool:
    """Returns True if the longest row of a batch may change how the positions of all are computed."""
    return bool(_stretching_ropes(text))


def _stretching_ropes(text: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parameters = text.get("rope_parameters") or {}
    # Some models, like Gemma 3, have parameters for each kind of layer.
    by_kind = [values for values in parameters.values() if isinstance(values, dict)]
    ropes = [parameters, *by_kind]
    return [rope for rope in ropes if rope.get("rope_type") in ("longrope", "dynamic")]


def pack_tokens(device: torch.device) -> int:
    """Returns the length of sequence beyond which packing more rows no longer pays, since attention grows with its
    square."""
    if device.type == "cpu":
        return 768
    if device.type == "mps":
        return MASKED_TOKENS
    return 8192


def usual_tokens(device: torch.device, able: Abilities) -> int:
    """Returns how many tokens are computed at a time if there is memory for them."""
    tokens = min(pack_tokens(device), able.widest)
    # As on a T4, a V100, or where flex_attention's results differ.
    has_mask = device.type == "cuda" and able.packs and not able.by_blocks
    if has_mask:
        return min(tokens, MASKED_TOKENS)
    return tokens


def fill_packs(rows: Sequence[Row], limit: int) -> list[list[Row]]:
    """Groups rows in their order, so that a group takes at most `limit` tokens with the common beginning counted once.
    A longer row is a group of its own."""
    packs: list[list[Row]] = []
    shared = 0  # tokens of the last pack's common beginning
    apart = 0  # tokens of its rows, as if they shared nothing
    for row in rows:
        if packs:
            pack = packs[-1]
            # The rows of a pack begin alike, so comparing with the first of them is enough.
            common = min(shared, shared_prefix_length((pack[0], row)))
            size = apart + len(row.ids) - len(pack) * common
            if size <= limit:
                pack.append(row)
                shared = common
                apart += len(row.ids)
                continue
        packs.append([row])
        shared = shared_prefix_length((row,))
        apart = len(row.ids)
    return packs


def width(rows: Sequence[Row]) -> int:
    """Returns the maximum number of tokens in a pack of these rows."""
    apart = sum(len(row.ids) for row in rows)
    repeated = (len(rows) - 1) * shared_prefix_length(rows)
    return apart - repeated


def pack_rows(
    rows: Sequence[Row],
    device: torch.device,
    dtype: torch.dtype,
    *,
    by_rows: bool = False,
    by_blocks: bool = False,
) -> Pack:
    shared = shared_prefix_length(rows)
    ids = list(rows[0].ids[:shared])
    positions = list(range(shared))
    owners = [0] * shared
    predicting: list[int] = []
    targets: list[int] = []
    for owner, row in enumerate(rows, start=1):
        end = row.last_target  # the last target is predicted, never read
        moved = len(ids) - shared
        for position in range(1, end + 1):
            if row.supervised[position]:
                # A token is predicted at the position before it.
                predicting.append(position - 1 + moved)
                targets.append(row.ids[position])
        ids += row.ids[shared:end]
        # Positions count from the row's own beginning, so that it is read as if it stood alone.
        positions += range(shared, end)
        owners += [owner] * (end - shared)

    is_alone = len(rows) == 1
    layout: RowLayout | Blocks | None = None
    if by_rows and not is_alone:
        lengths = [row.last_target - shared for row in rows]
        layout = build_row_layout(shared, lengths, device, dtype)
    elif by_blocks and not is_alone and len(ids) > MAX_MASKED_TOKENS:
        layout = build_blocks(owners, device)
    mask = None
    if layout is None and not is_alone:
        mask = attention_mask(owners, device, dtype)
    return Pack(
        input_ids=torch.tensor([ids], device=device),
        positions=torch.tensor([positions], device=device),
        mask=mask,
        layout=layout,
        predicting=torch.tensor(predicting, device=device),
        targets=torch.tensor(targets, device=device),
    )


def shared_prefix_length(rows: Sequence[Row]) -> int:
    """Returns the number of equal tokens with which all rows begin, up to the first that predicts a supervised
    token."""
    first = rows[0].ids
    # The token that predicts a row's first target stays with its row, since targets differ.
    shared = min(row.first_target - 1 for row in rows)
    for row in rows[1:]:
        for position in range(shared):
            if row.ids[position] != first[position]:
                shared = position
                break
    return shared


def attention_mask(owners: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Returns (1, 1, T, T): 0 for each pair of tokens where the first may see the second, otherwise the lowest number.
    All rows see the tokens of owner 0."""
    # Built on the device, since a mask of 8,192 tokens takes 134 MB.
    owner = torch.tensor(owners, device=device)
    is_same_row = owner[:, None] == owner[None, :]  # (T, T)
    is_beginning = owner[None, :] == 0
    visible = is_same_row | is_beginning
    allowed = visible & torch.ones_like(visible).tril()  # no token sees later ones
    lowest = torch.finfo(dtype).min
    zeros = torch.zeros(allowed.shape, device=device, dtype=dtype)
    mask = zeros.masked_fill(~allowed, lowest)
    return mask[None, None]


def measure(model: Model, pack: Pack, able: Abilities) -> Loss:
    """Computes the loss of a pack. The head is applied only to the K tokens that predict a supervised token, or to all
    if the model can't select."""
    inputs: dict[str, Any] = {"input_ids": pack.input_ids, "use_cache": False}
    if able.packs:
        inputs["position_ids"] = pack.positions
        inputs["attention_mask"] = pack.mask
    if pack.layout is not None:
        inputs["attention_mask"] = _unused_mask(pack.layout, pack.input_ids.device)
        inputs["row_layout"] = pack.layout
    if able.kept_positions is not None:
        able.kept_positions.keep(pack.predicting, pack.input_ids.shape[1])
    at_head = len(pack.predicting) if able.selects else pack.input_ids.shape[1]
    if able.head is not None and able.head.pays_for(at_head):
        total, correct = able.head.measure(model, inputs, pack.predicting, pack.targets)
        return Loss(total, len(pack.targets), int(correct))

    if able.selects:
        inputs["logits_to_keep"] = pack.predicting
    logits = model(**inputs).logits[0]
    if not able.selects:
        logits = logits[pack.predicting]
    logits = logits.float()  # (K, vocabulary)
    # A sum, since the mean is over the tokens of the whole batch, which may take several packs.
    total = functional.cross_entropy(logits, pack.targets, reduction="sum")
    likeliest = logits.detach().argmax(-1)
    right = int((likeliest == pack.targets).sum())
    return Loss(total, len(pack.targets), right)


def _unused_mask(layout: RowLayout | Blocks, device: torch.device) -> Tensor:
    """Returns a mask that is passed beside a layout so that transformers builds none. It is nan, so that the loss shows
    if a family ignores the layout."""
    dtype = torch.float32
    if isinstance(layout, RowLayout):
        dtype = layout.mask.dtype
    return torch.full((1, 1, 1, 1), math.nan, dtype=dtype, device=device)
