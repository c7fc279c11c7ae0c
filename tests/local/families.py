"""The families that teams fine-tune, each from its own configuration class at toy size, with its chat template.

The templates write turns as the published ones do, without tools, pictures and dates.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

VOCABULARY = 400
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.15,  # at the usual 0.02 a frozen random head leaves LoRA nothing to choose between
}
SIGHT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0] * 6,
    "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
}


def config(family: str, **changes: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **{**TEXT, **changes})


def llama4() -> Any:
    from transformers import Llama4Config

    text = {**TEXT, "intermediate_size_mlp": 64, "num_local_experts": 2, "no_rope_layer_interval": 2}
    sight = {**SIGHT, "projector_input_dim": 16, "projector_output_dim": 16, "vision_output_dim": 16}
    return Llama4Config(
        text_config=text, vision_config=sight, image_token_index=5, boi_token_index=6, eoi_token_index=7
    )


def mistral3() -> Any:
    from transformers import Mistral3Config

    text = {**TEXT, "model_type": "mistral", "sliding_window": None}
    sight = {**SIGHT, "model_type": "pixtral", "head_dim": 8}
    return Mistral3Config(
        text_config=text, vision_config=sight, image_token_index=5, tie_word_embeddings=False
    )


def ministral3() -> Any:
    from transformers import Mistral3Config

    text = {**TEXT, "model_type": "ministral3"}
    sight = {**SIGHT, "model_type": "pixtral", "head_dim": 8}
    return Mistral3Config(
        text_config=text, vision_config=sight, image_token_index=5, tie_word_embeddings=False
    )


def gemma3() -> Any:
    from transformers import Gemma3Config

    text, sight = {**TEXT, "sliding_window": 256}, {**SIGHT, "model_type": "siglip_vision_model"}
    return Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=4, image_token_index=5)


def phi4_mini() -> Any:
    return config(
        "phi3", rope_parameters=LONG_ROPE, original_max_position_embeddings=256, tie_word_embeddings=True
    )


STANDARD = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})  # beside experts, which are no linear layers
PHI = frozenset({"qkv_proj", "o_proj", "gate_up_proj", "down_proj"})


def turns(begin: str, middle: str, end: str, *, assistant: str = "assistant", start: str = "") -> str:
    """Each turn as BEGIN role MIDDLE text END."""
    return (
        f"{start}{{% for m in messages %}}{begin}{{{{ '{assistant}' if m.role == 'assistant' else m.role }}}}"
        f"{middle}{{{{ m.content }}}}{end}{{% endfor %}}{{% if add_generation_prompt %}}{begin}{assistant}{middle}"
        "{% endif %}"
    )


def system_first(user: str, answer: str, start: str) -> str:
    """The system's text is part of the first user's turn. `user` and `answer` contain TEXT."""
    question = user.replace("TEXT", "{{ system.value }}{{ m.content }}")
    return (
        f"{start}{{% set system = namespace(value='') %}}{{% for m in messages %}}{{% if m.role == 'system' %}}"
        "{% set system.value = m.content + '\n\n' %}{% elif m.role == 'user' %}"
        f"{question}{{% set system.value = '' %}}{{% else %}}{answer.replace('TEXT', '{{ m.content }}')}"
        "{% endif %}{% endfor %}"
    )


CHATML = turns("<|im_start|>", "\n", "<|im_end|>\n")
GEMMA = system_first(
    "<start_of_turn>user\nTEXT<end_of_turn>\n", "<start_of_turn>model\nTEXT<end_of_turn>\n", "<bos>"
)
# Hybrid thinkers write an empty thought before an answer without thoughts
NO_THOUGHTS = "<think>\n\n</think>\n\n"
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    + NO_THOUGHTS
    + "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}" + NO_THOUGHTS + "{% endif %}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """`model_class` must be loaded; 'all-linear' means `layers`; LoRA adapts only `part`; `special` are the template's
    tokens, of which the last ends a turn; `store` converts the weights to another format."""

    config: Callable[[], Any]
    model_class: str
    template: str
    special: tuple[str, ...]
    layers: frozenset[str] = STANDARD
    part: str = "model.layers."
    store: Callable[[Path], None] | None = None


CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
LLAMA3_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
FAMILIES = {
    "llama-4-scout": Family(
        llama4,
        "Llama4ForCausalLM",
        turns("<|header_start|>", "<|header_end|>\n\n", "<|eot|>", start="<|begin_of_text|>"),
        ("<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>"),
    ),
    "mistral-7b-v0.3": Family(
        lambda: config("mistral", sliding_window=None),
        "MistralForCausalLM",
        system_first("[INST] TEXT[/INST]", " TEXT</s>", "<s>"),
        ("<s>", "[INST]", "[/INST]", "</s>"),
    ),
    "mistral-small-24b": Family(
        mistral3,
        "Mistral3ForConditionalGeneration",
        system_first("[INST]TEXT[/INST]", "TEXT</s>", "<s>"),
        ("<s>", "[INST]", "[/INST]", "</s>"),
        part="model.language_model.layers.",
    ),
    "ministral-3": Family(
        ministral3,
        "Mistral3ForConditionalGeneration",
        system_first("[INST]TEXT[/INST]", "TEXT</s>", "<s>"),
        ("<s>", "[INST]", "[/INST]", "</s>"),
        part="model.language_model.layers.",
    ),
    "olmo-3": Family(lambda: config("olmo3", sliding_window=256), "Olmo3ForCausalLM", CHATML, CHATML_TOKENS),
    "granite-4.1": Family(
        lambda: config("granite"),
        "GraniteForCausalLM",
        turns("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>\n"),
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    ),
    "phi-4": Family(
        lambda: config("phi3"),
        "Phi3ForCausalLM",
        turns("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
        ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
        layers=PHI,
    ),
    "phi-4-mini": Family(
        phi4_mini,
        "Phi3ForCausalLM",
        turns("<|", "|>", "<|end|>"),
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        layers=PHI,
    ),
    "llama-3": Family(
        lambda: config("llama"),
        "LlamaForCausalLM",
        turns("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", start="<|begin_of_text|>"),
        LLAMA3_TOKENS,
    ),
    "qwen-3-moe": Family(
        lambda: config("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64),
        "Qwen3MoeForCausalLM",
        QWEN3,
        CHATML_TOKENS,
        layers=ATTENTION,
    ),
    "mixtral": Family(
        lambda: config("mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
        "MixtralForCausalLM",
        system_first("[INST] TEXT[/INST]", " TEXT</s>", "<s>"),
        ("<s>", "[INST]", "[/INST]", "</s>"),
        layers=ATTENTION,
    ),
    "qwen-3": Family(lambda: config("qwen3"), "Qwen3ForCausalLM", QWEN3, CHATML_TOKENS),
    "gemma-3-1b": Family(
        lambda: config("gemma3_text", sliding_window=256),
        "Gemma3ForCausalLM",
        GEMMA + "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
    ),
    "gemma-3-4b": Family(
        gemma3,
        "Gemma3ForConditionalGeneration",
        GEMMA + "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        part="model.language_model.layers.",
    ),
    "smollm2": Family(
        lambda: config("llama", tie_word_embeddings=True), "LlamaForCausalLM", CHATML, CHATML_TOKENS
    ),
    "smollm3": Family(
        lambda: config("smollm3", no_rope_layer_interval=2), "SmolLM3ForCausalLM", CHATML, CHATML_TOKENS
    ),
}


LINEAR_ATTENTION: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
STATE_SPACE: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 32,
}


def qwen3_5() -> Any:
    from transformers import AutoConfig

    sight = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    return AutoConfig.for_model("qwen3_5", text_config={**TEXT, **LINEAR_ATTENTION}, vision_config=sight)


def gemma4() -> Any:
    """Its layers have heads of different sizes, so the model has no head_dim."""
    return config(
        "gemma4_text", sliding_window=64, hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCABULARY
    )


def granite4() -> Any:
    from transformers import GraniteMoeHybridConfig

    text = {key: value for key, value in TEXT.items() if key != "head_dim"}
    return GraniteMoeHybridConfig(
        **text,
        **STATE_SPACE,
        layer_types=["mamba", "attention"],
        num_local_experts=0,
        shared_intermediate_size=64,
    )


def gpt_oss() -> Any:
    return config("gpt_oss", num_local_experts=4, num_experts_per_tok=2, sliding_window=64)


def mixture(family: str) -> Any:
    """A mixture of experts whose first layer is dense, with the attention of DeepSeek's or GLM's."""
    return config(
        family,
        num_key_value_heads=4,
        head_dim=8,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        n_group=1,
        topk_group=1,
        n_shared_experts=1,
        first_k_dense_replace=1,
    )


def store_in_mxfp4(folder: Path) -> None:
    """Stores experts as gpt-oss's authors do: two numbers in a byte, and one exponent for 32 numbers."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith((".gate_up_proj", ".down_proj"))]:
        experts, inputs, outputs = weights.pop(name).shape
        places = (experts, outputs, inputs // 32)
        weights[f"{name}_blocks"] = torch.randint(0, 256, (*places, 16), dtype=torch.uint8)
        weights[f"{name}_scales"] = torch.full(places, 127 - 6, dtype=torch.uint8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    stored = json.loads((folder / "config.json").read_text())
    stored["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(stored))


def published(family: str) -> str:
    return (files("trl") / "chat_templates" / f"{family}.jinja").read_text(encoding="utf-8")


def mamba2() -> Any:
    from transformers import Mamba2Config

    text = {key: TEXT[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "initializer_range")}
    ids = {key: TEXT[key] for key in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return Mamba2Config(**text, **ids, num_heads=8, head_dim=16, state_size=16, n_groups=1, chunk_size=32)


LINEAR = frozenset({"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"})
GEMMA4_LAYERS = frozenset({"per_layer_input_gate", "per_layer_projection", "per_layer_model_projection"})
# Models with several kinds of layers, and states that each token updates: rows are padded, not packed.
HYBRIDS = {
    "gpt-oss": Family(
        gpt_oss,
        "GptOssForCausalLM",
        published("gptoss"),
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
        ATTENTION,
        store=store_in_mxfp4,
    ),
    "lfm-2": Family(
        lambda: config("lfm2", layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
        "Lfm2ForCausalLM",
        published("lfm2_v2"),
        ("<|startoftext|>", *CHATML_TOKENS),
        frozenset({"q_proj", "k_proj", "v_proj", "out_proj", "in_proj", "w1", "w2", "w3"}),
    ),
    "qwen-3.5": Family(qwen3_5, "Qwen3_5ForCausalLM", QWEN3, CHATML_TOKENS, STANDARD | LINEAR),
    "gemma-4": Family(gemma4, "Gemma4ForCausalLM", CHATML, CHATML_TOKENS, STANDARD | GEMMA4_LAYERS, "model."),
    "granite-4": Family(
        granite4,
        "GraniteMoeHybridForCausalLM",
        CHATML,
        CHATML_TOKENS,
        ATTENTION | {"in_proj", "input_linear", "output_linear"},
    ),
    "falcon-h1": Family(
        lambda: config("falcon_h1", **STATE_SPACE, mamba_d_ssm=128),
        "FalconH1ForCausalLM",
        CHATML,
        CHATML_TOKENS,
        STANDARD | {"in_proj"},
    ),
    "nemotron-h": Family(
        lambda: config(
            "nemotron_h",
            layers_block_type=["mamba", "attention"],
            mamba_num_heads=4,
            mamba_head_dim=16,
            ssm_state_size=16,
            n_groups=1,
            chunk_size=32,
        ),
        "NemotronHForCausalLM",
        CHATML,
        CHATML_TOKENS,
        ATTENTION | {"in_proj"},
    ),
    "mamba-2": Family(
        mamba2, "Mamba2ForCausalLM", CHATML, CHATML_TOKENS, frozenset({"in_proj"}), "backbone.layers."
    ),
}


# Its attention compresses neighbouring tokens, padding among them.
ONE_BY_ONE = {
    "deepseek-v4": Family(
        lambda: config(
            "deepseek_v4",
            layer_types=["heavily_compressed_attention", "compressed_sparse_attention"],
            mlp_layer_types=["hash_moe", "moe"],
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_shared_experts=1,
            moe_intermediate_size=32,
            q_lora_rank=16,
            qk_rope_head_dim=8,
            index_n_heads=2,
            index_head_dim=16,
            index_topk=64,
            sliding_window=64,
        ),
        "DeepseekV4ForCausalLM",
        CHATML,
        CHATML_TOKENS,
    ),
}


# By transformers' names; none of them can be packed, and all can be padded.
PADDED: dict[str, Callable[[], Any]] = {
    "qwen3_5": qwen3_5,
    "gemma4_text": gemma4,
    "gpt_oss": gpt_oss,
    "lfm2": HYBRIDS["lfm-2"].config,
    "deepseek_v3": lambda: mixture("deepseek_v3"),
    "glm4_moe": lambda: mixture("glm4_moe"),
    "falcon_h1": HYBRIDS["falcon-h1"].config,
}


def make_family(folder: Path, family: Family) -> Path:
    """The complete model, including vision, as its authors publish it: safetensors, tokenizer, and template."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    torch.manual_seed(20261125)
    config = family.config()
    has_vision = config.get_text_config() is not config
    mapping: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if has_vision else MODEL_FOR_CAUSAL_LM_MAPPING
    mapping[type(config)](config).save_pretrained(folder)
    if family.store:
        family.store(folder)
    make_tokenizer(folder, family)
    return folder


def make_tokenizer(folder: Path, family: Family) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", *(token for token in family.special if token != "<pad>")]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = [
        "system user assistant model billing shipping my card was charged twice the parcel has not arrived"
    ]
    tokenizer.train_from_iterator(words * 3, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=family.special[-1], pad_token="<pad>"
    )
    fast.chat_template = family.template
    fast.save_pretrained(folder)
