"""What DPO by TRL takes beside training on chats: both answers at once, and a head over all words. In bytes, pure.

Read off trl 1.16:

    dpo_trainer.py, DataCollatorForPreference   2·n rows for n pairs, all padded to the longest: nothing is shared
    dpo_trainer.py, _compute_loss               policy, then the reference without gradients, then the way back
    utils.py, add_fused_lm_head                 on a CPU the head is applied at every token but a row's last; on a GPU
                                                (Triton) at the answers' tokens only
    chunked_logprob.py                          tiles of at most 4,096 tokens by 32,768 words; their log-softmax is not
                                                kept but computed again on the way back

A tile takes, in bytes a token and word, with e bytes a number:

    GPU   e           its logits; Triton's kernels turn them into their gradient in place
    CPU   e + 13      forward: logits; z, z - max, exp in float32; which words stand before the target, 1
          e + 29      back: logits; y, z, log p, p, the gradient in float32; whether a word is the target, 1, that as
                      float32, and less p
          e + 4       then the product in float32, with the head's own part of as many words in float32 (bfloat16 only)

The reference is the same model with its adapter off, so there are no weights of it. Its pass runs while all that the
policy keeps is there; its tiles are smaller than those of the way back, so it is never the peak.

Attention is torch's own under a mask, since rows are padded: keys and values are repeated for all heads, and each
layer turns the mask into numbers (scaled_dot_product_attention):

    4·e·q + 4·H + e·L
"""

from __future__ import annotations

from trainers.sizing.architecture import Architecture

TILE_TOKENS, TILE_WORDS = 4096, 32768  # TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE
FORWARD_CPU, BACKWARD_CPU, PRODUCT_CPU = 13, 29, 4
FLOAT32 = 4


def padded_attention(model: Architecture, length: int, e: int) -> int:
    """Bytes that one layer's attention keeps of one token of a row of `length`."""
    return 4 * e * model.queries + 4 * model.heads + e * length


def head_on_the_way_back(model: Architecture, tokens: int, e: int, *, on_gpu: bool) -> int:
    """Bytes at the peak for `tokens` places that the head looks at."""
    around = tokens * model.hidden * (e + FLOAT32)  # what goes into the head, and its gradient
    tile = _tile(model, tokens)
    if on_gpu:
        return tile * e + around
    copies = PRODUCT_CPU + e if e < FLOAT32 else e
    weights = FLOAT32 * model.hidden * min(model.vocab, TILE_WORDS) if e < FLOAT32 else 0
    return max(tile * (e + BACKWARD_CPU), tile * copies + weights) + around


def head_of_the_reference(model: Architecture, tokens: int, e: int, *, on_gpu: bool) -> int:
    """Bytes while the reference answers; gone before the way back begins."""
    return _tile(model, tokens) * (e if on_gpu else e + FORWARD_CPU) + tokens * model.hidden * e


def _tile(model: Architecture, tokens: int) -> int:
    """Places times words."""
    return min(tokens, TILE_TOKENS) * min(model.vocab, TILE_WORDS)
