"""A model whose weights hold a script: asked with tools it calls one, and given the result it answers in words.

Each token depends only on the one before it, so the answer is the same whatever a client writes into the prompt. If an
answer must fit a schema, the model ends strings and numbers at once.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.local.conftest import make_tokenizer

CALL = ["<tool_call>\n", '{"name": "get_weather", "arguments": ', '{"city": "Paris"}', "}\n</tool_call>"]
TOLD = ["It is sunny", " in Paris."]
PLAIN = ["Good", " morning", "."]
SCRIPT = {"<|asked|>": CALL, "<|told|>": TOLD, "<|plain|>": PLAIN}
ENDS_OF_VALUES = ('"', "}", "]", ",")
TEMPLATE = """
{%- macro begin(before) -%}
{{ '<|im_start|>assistant\n' }}
{{- '<|told|>' if before.role == 'tool' else '<|asked|>' if tools else '<|plain|>' }}
{%- endmacro -%}
{%- if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}{{ begin(loop.previtem) }}
{%- else %}{{ '<|im_start|>' + message.role + '\n' }}{% endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ begin(messages[-1]) }}{% endif %}"""


def make_model(folder: Path, template: str = TEMPLATE) -> None:
    make_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in SCRIPT])
    tokenizer.add_tokens([AddedToken(part, normalized=False) for parts in SCRIPT.values() for part in parts])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)

    size = 4 * -(-len(tokenizer) // 4) + 4
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    ids = tokenizer.convert_tokens_to_ids
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), size))
        model.lm_head.weight[[ids(end) for end in ENDS_OF_VALUES]] = 0.5
        for mark, parts in SCRIPT.items():
            for token, next_token in pairwise([mark, *parts, "<|im_end|>"]):
                model.lm_head.weight[ids(next_token), ids(token)] = 2
    model.save_pretrained(folder)


if __name__ == "__main__":
    make_model(Path(sys.argv[1]))
