"""Packs the rows of a batch into one sequence, without padding and with their common beginning only once.

    ids        p p p  a a a  b b        p: the tokens with which every row begins; a, b: the rest of each row
    positions  0 1 2  3 4 5  3 4
    seen by b  p p p         b b        each row sees the common beginning and itself, through a mask or a layout

A model that would see across rows all the same, such as a recurrent one, gets rows of similar length side by side:

    ids        p p p a a a              no mask: a token never sees those behind it, so padding changes no loss
               p p p b b .

If a trial on the loaded model shows that padding does change it, the model gets one row at a time. Tokens after a row's
last supervised token are never computed. This module builds tensors and computes the loss; it neither reads rows nor
trains.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import masking_utils

from trainers.local.kernels.block_attention import BY_BLOCKS, MAX_MASKED_TOKENS, Blocks, build_blocks
from trainers.local.kernels.chunked_loss import ChunkedHead
from trainers.local.kernels.fused_layers import KeptPositions
from trainers.local.kernels.shared_prefix_attention import BY_ROWS, RowLayout, build_row_layout
from trainers.local.training.data import Row
from trainers.local.training.finite_numbers import number_format

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Families whose attention uses the given mask and positions unchanged; tested in tests/local/training/test_packing.py.
PACKED_FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "olmo2", "smollm3"),
    *("gemma3_text", "gemma3", "mistral3", "ministral3", "llama4_text"),
    *("granite", "glm4", "olmo3", "cohere2", "qwen3_moe", "mixtral"),
)
# The share of the computed tokens that may be padding. On a GPU a pass of few tokens takes as long as one of many; on a
# CPU every token takes its time.
MOST_PADDING = 0.3
MOST_PADDING_CPU = 0.1
# Packs of so many tokens where attention needs a mask: at 8,192 it would compute all pairs of tokens without flash
# kernels, and on MPS keep 4 GB of scores a layer.
MASKED_TOKENS = 2048
# Made-up rows for the trial of padding, if the job has so long ones: more than a chunk of linear attention and of a
# state space. Of each about 16 tokens are predicted.
TRIAL_TOKENS = (5, 70, 260)
TRIAL_TARGETS = 16
TOLERANCE = 1e-5  # of a row's loss
TOLERANCE_NARROW = 0.01  # for bfloat16, float16 and products in 8 bits, which round differently for more rows


class Model(Protocol):
    """A causal language model of transformers, with or without an adapter."""

    def __call__(self, **inputs: Tensor | RowLayout | Blocks | bool | None) -> Output: ...


class Output(Protocol):
    logits: Tensor


@dataclass(frozen=True)
class Pack:
    """T tokens in one sequence, or B rows padded to T tokens, of which K predict a supervised token.

    `input_ids` and `positions` are (1, T) or (B, T). `mask` (1, 1, T, T) is added to the attention scores; None means
    the plain causal mask. If attention is computed by rows or by blocks, `layout` replaces the mask. `predicting` (K,)
    are positions in all rows one after the other, and `targets` (K,) the token ids to predict there.
    """

    input_ids: Tensor
    positions: Tensor
    mask: Tensor | None
    predicting: Tensor
    targets: Tensor
    layout: RowLayout | Blocks | None = None


@dataclass(frozen=True)
class Abilities:
    """What a model can do. `packs`: rows in one sequence, of at most `widest` tokens, don't see each other. `pads`: it
    doesn't pack, but padding behind a row doesn't change the row's loss. `selects`: the head can be applied to selected
    tokens only. `places`: it can be told the tokens' positions. `by_rows`, `by_blocks`: attention takes a layout.
    `kept_positions`: the last layer's feed-forward part is computed only at these positions. `head`: the head works in
    chunks of tokens if their logits are many."""

    packs: bool
    selects: bool
    widest: int = sys.maxsize
    by_rows: bool = False
    by_blocks: bool = False
    kept_positions: KeptPositions | None = None
    head: ChunkedHead | None = None
    pads: bool = False
    places: bool = False

    @property
    def combines(self) -> bool:
        """True if one pass can compute several rows."""
        return self.packs or self.pads


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
        places="position_ids" in parameters,
    )


def padding_refusal(model: Any, able: Abilities, longest: int) -> str | None:
    """Returns why rows of at most `longest` tokens can't be computed side by side, or None if a trial shows that each
    then has the loss that it has alone. `model` is the loaded base."""
    limit = max_unstretched_length(model.config.get_text_config().to_dict())
    if longest > limit:
        return f"rows of more than {limit:,} tokens change how this model computes the positions of all"
    rows = _trial_rows(model, longest)
    device = model.get_input_embeddings().weight.device
    padding = replace(able, pads=True)
    try:
        with torch.no_grad():
            alone = [_loss_of_each(model, [row], pad_rows([row], device), able) for row in rows]
            padded = _loss_of_each(model, rows, pad_rows(rows, device), padding)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        sentence, _, _ = str(error).strip().partition("\n")
        return f"the trial with padded rows did not run: {type(error).__name__} {sentence[:200]}".strip()
    expected = torch.cat(alone)
    relative = (padded - expected) / expected
    difference = float(relative.abs().max())
    if difference <= _tolerance(model):  # False for nan
        return None
    return f"padding changes the loss of rows (by {difference:.1g} of it)"


def _tolerance(model: Any) -> float:
    is_in_8_bits = getattr(model, "is_loaded_in_8bit", False)
    if is_in_8_bits or number_format(model) != torch.float32:
        return TOLERANCE_NARROW
    return TOLERANCE


def _trial_rows(model: Any, longest: int) -> list[Row]:
    words = len(model.get_input_embeddings().weight)
    # The middle half of the vocabulary: tokens that stand for pictures are near one of its ends.
    first = words // 4
    end = 3 * words // 4
    dice = torch.Generator().manual_seed(0)
    rows = []
    for wanted in TRIAL_TOKENS:
        count = max(2, min(wanted, longest))
        ids = torch.randint(first, end, (count,), generator=dice)
        apart = max(1, count // TRIAL_TARGETS)
        supervised = [place % apart == 0 for place in range(count)]
        supervised[0] = False  # no token is before the first
        rows.append(Row(0, ids.tolist(), supervised))
    return rows


def _loss_of_each(model: Any, rows: Sequence[Row], pack: Pack, able: Abilities) -> Tensor:
    """Returns the summed loss of each row (rows,)."""
    logits = _logits(model, _inputs(pack, able), pack, able).float()
    losses = functional.cross_entropy(logits, pack.targets, reduction="none")
    parts = torch.split(losses, [sum(row.supervised) for row in rows])
    return torch.stack([part.sum() for part in parts])


def max_packed_length(text: Mapping[str, Any]) -> int:
    """Returns how long a row may be so that the model computes the same in a pack as for the row alone. `text` is the
    configuration of the text part.

    A row must fit into a sliding window and into an attention chunk. Rotary embeddings that stretch with the longest
    row (dynamic, and longrope of Phi-4-mini) would be stretched for all rows of a pack.
    """
    limits = [text.get("sliding_window"), text.get("attention_chunk_size")]
    present = [int(limit) for limit in limits if limit]
    return min([*present, max_unstretched_length(text)])


def max_unstretched_length(text: Mapping[str, Any]) -> int:
    """Returns how long the longest of several rows may be so that the positions of all are computed as for each
    alone."""
    limits = []
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


def padded_width(rows: Sequence[Row]) -> int:
    """Returns the number of tokens that are computed for these rows side by side, with their padding."""
    return len(rows) * max(row.last_target for row in rows)


def fill_padded(rows: Sequence[Row], limit: int, device: torch.device) -> list[list[Row]]:
    """Groups rows of similar length, the longest first, so that a group takes at most `limit` tokens with its padding,
    and little of that. A longer row is a group of its own."""
    most_padding = MOST_PADDING
    if device.type == "cpu":
        most_padding = MOST_PADDING_CPU
    groups: list[list[Row]] = []
    longest = 0
    read = 0  # tokens of the last group without its padding
    for row in sorted(rows, key=lambda row: row.last_target, reverse=True):
        length = row.last_target
        if groups:
            computed = longest * (len(groups[-1]) + 1)
            padding = computed - read - length
            if computed <= limit and padding <= most_padding * computed:
                groups[-1].append(row)
                read += length
                continue
        groups.append([row])
        longest = read = length
    return groups


def pad_rows(rows: Sequence[Row], device: torch.device) -> Pack:
    """Returns the rows side by side."""
    longest = max(row.last_target for row in rows)
    ids = []
    predicting: list[int] = []
    targets: list[int] = []
    for place, row in enumerate(rows):
        end = row.last_target  # the last target is predicted, never read
        own = row.ids[:end]
        # Any other token than one of the row's own might mean something to the model, such as a picture.
        padding = [own[-1]] * (longest - end)
        ids.append([*own, *padding])
        before = place * longest
        for position in range(1, end + 1):
            if row.supervised[position]:
                # A token is predicted at the position before it.
                predicting.append(before + position - 1)
                targets.append(row.ids[position])
    return Pack(
        input_ids=torch.tensor(ids, device=device),
        positions=torch.arange(longest, device=device).expand(len(rows), -1),
        mask=None,
        predicting=torch.tensor(predicting, device=device),
        targets=torch.tensor(targets, device=device),
    )


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
    inputs = _inputs(pack, able)
    if able.kept_positions is not None:
        able.kept_positions.keep(pack.predicting, pack.input_ids.shape[1])
    at_head = len(pack.predicting) if able.selects else pack.input_ids.numel()
    if able.head is not None and able.head.pays_for(at_head):
        with _without_search_for_packs():
            total, correct = able.head.measure(model, inputs, pack.predicting, pack.targets)
        return Loss(total, len(pack.targets), int(correct))
    logits = _logits(model, inputs, pack, able).float()
    # A sum, since the mean is over the tokens of the whole batch, which may take several packs.
    total = functional.cross_entropy(logits, pack.targets, reduction="sum")
    likeliest = logits.detach().argmax(-1)
    right = int((likeliest == pack.targets).sum())
    return Loss(total, len(pack.targets), right)


def _inputs(pack: Pack, able: Abilities) -> dict[str, Any]:
    inputs: dict[str, Any] = {"input_ids": pack.input_ids, "use_cache": False}
    if able.packs or (able.pads and able.places):
        inputs["position_ids"] = pack.positions
        inputs["attention_mask"] = pack.mask
    if pack.layout is not None:
        inputs["attention_mask"] = _unused_mask(pack.layout, pack.input_ids.device)
        inputs["row_layout"] = pack.layout
    return inputs


def _logits(model: Model, inputs: dict[str, Any], pack: Pack, able: Abilities) -> Tensor:
    """Returns the logits (K, vocabulary) at the tokens that predict a supervised one."""
    is_one_sequence = len(pack.input_ids) == 1
    with _without_search_for_packs():
        if able.selects and is_one_sequence:
            # This selects the same positions in every row.
            return model(**inputs, logits_to_keep=pack.predicting).logits[0]
        if able.head is not None:
            return able.head.select(model, inputs, pack.predicting)
        return model(**inputs).logits.flatten(0, 1)[pack.predicting]


@contextmanager
def _without_search_for_packs() -> Iterator[None]:
    """Keeps transformers from looking for packed rows in the positions at each pass, for which it waits until the GPU
    has finished. A pack has its own mask or layout, and other rows stand alone."""
    search = masking_utils.find_packed_sequence_indices

    def find_none(position_ids: Tensor) -> None:
        return None

    masking_utils.find_packed_sequence_indices = find_none
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = search


def _unused_mask(layout: RowLayout | Blocks, device: torch.device) -> Tensor:
    """Returns a mask that is passed beside a layout so that transformers builds none. It is nan, so that the loss shows
    if a family ignores the layout."""
    dtype = torch.float32
    if isinstance(layout, RowLayout):
        dtype = layout.mask.dtype
    return torch.full((1, 1, 1, 1), math.nan, dtype=dtype, device=device)
