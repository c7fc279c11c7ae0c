"""Chat templates converted for Ollama: each writes what transformers writes, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.local.conftest import CHATML
from tests.local.export.go_template import render
from trainers.export_folder import ExportRefused
from trainers.local.export.ollama import modelfile, read_chat_template

# Written for these tests, with the same output as each family's own template
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe \"helpful\".<|im_end|>\n' }}{% endif %}"
    + CHATML
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}{{ bos_token }}"
    "{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}{{ '[INST] ' }}"
    "{% if loop.last and system %}{{ system + '\n\n' }}{% endif %}{{ m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% set first = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
    "{% for m in (messages[1:] if first else messages) %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' "
    "else 'user') + '\n' + (first if loop.first else '') + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + GEMMA
COUNTS_TURNS = (
    "{% for m in messages %}{{ loop.index ~ ' ' ~ m['role'] ~ ': ' ~ m['content'] ~ '\n' }}{% endfor %}"
)
REPEATS = CHATML + "{{ messages[-1]['content'] }}"
FAMILIES = {
    "chatml": CHATML,
    "chatml with a default": DEFAULT_SYSTEM,
    "llama 3": LLAMA_3,
    "mistral": MISTRAL,
    "gemma 3": GEMMA,
    "gemma 2": NO_SYSTEM,
}
CHATS = [
    ["u"],
    ["s", "u"],
    ["u", "a", "u"],
    ["s", "u", "a", "u", "a", "u", "a", "u"],
]
ROLES = {"s": "system", "u": "user", "a": "assistant"}


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir, bos_token="<|endoftext|>", eos_token="<|im_end|>")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strip_bos", [False, True])
def test_a_converted_template_writes_what_transformers_writes(
    tokenizer: Any, family: str, strip_bos: bool
) -> None:
    tokenizer.chat_template = FAMILIES[family]
    template = read_chat_template(tokenizer, strip_bos)
    for roles in CHATS:
        if family == "gemma 2" and "s" in roles:
            continue
        chat = [
            {"role": ROLES[role], "content": f'{number} <b>"{{{{ .Role }}}}"\\n</b>'}
            for number, role in enumerate(roles)
        ]
        expected = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        if strip_bos:
            expected = expected.removeprefix("<|endoftext|>")
        assert render(template.in_go(), chat) == expected


@pytest.mark.parametrize("template", [COUNTS_TURNS, REPEATS])
def test_a_template_that_ollama_cannot_express_is_refused(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(ExportRefused, match=r"serve that with llama\.cpp's server"):
        read_chat_template(tokenizer, False)


def test_a_modelfile_has_template_stop_texts_context_and_system_prompt(
    tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.chat_template = CHATML
    text = modelfile(
        tmp_path / "m.gguf", read_chat_template(tokenizer, False), ["<|im_end|>"], 4096, "Sort\nthis."
    )
    first, template, *rest = text.split("\n", 2)
    assert first == "FROM ./m.gguf"
    assert template.startswith('TEMPLATE """{{- $last := "start" }}') and template.endswith('"""')
    assert template.count('"""') == 2
    assert rest == [
        'PARAMETER temperature 0\nPARAMETER num_ctx 4096\nPARAMETER stop "<|im_end|>"\nSYSTEM """Sort\nthis."""\n'
    ]
