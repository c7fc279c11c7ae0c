"""How each command is typed, and which options it takes: for the help and for answers to what can't be read."""

from __future__ import annotations

from collections.abc import Mapping

from bot.options import FIGURES

USAGE: Mapping[str, str] = {
    "help": "/finetune help",
    "upload": "/finetune upload",
    "datasets": "/finetune datasets",
    "baseline": "/finetune baseline DATASET [models=local/smollm2-135m bar=90% judge=openai/gpt-4o-mini]",
    "curve": "/finetune curve DATASET [target=local/smollm2-135m predict=2000,5000 label_usd=0.5]",
    "knowledge": "/finetune knowledge DATASET",
    "prices": "/finetune prices [gpt-4o-mini]",
    "estimate": "/finetune estimate DATASET current=gpt-4o volume=10M target=local/smollm2-135m"
    " [hours=20 rate=90 labels=500 label_usd=0.5 wrong_usd=2 retrain=6 bar=90% task=style quantization=nf4"
    " sweep=lora_r:8,16]",
    "start": "/finetune start DATASET target=local/smollm2-135m [current=gpt-4o volume=10M epochs=2"
    " engine=unsloth quantization=nf4 sweep=lora_r:8,16;learning_rate:5e-4,1e-3]",
    "status": "/finetune status [RUN]",
    "runs": "/finetune runs",
    "pause": "/finetune pause RUN",
    "resume": "/finetune resume RUN",
    "cancel": "/finetune cancel RUN",
    "results": "/finetune results RUN",
    "budget": "/finetune budget",
    "freeze": "/finetune freeze [reason]",
    "unfreeze": "/finetune unfreeze",
    "audit": "/finetune audit RUN",
    "models": "/finetune models",
    "try": "/finetune try MODEL your text",
    "promote": "/finetune promote MODEL [because=why it shall be used all the same]",
    "rollback": "/finetune rollback DATASET [because=why]",
    "delete": "/finetune delete DATASET [before=2026-01-31]",
}
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "baseline": ("models", "rungs", "judge", "bar", "task", "prompt"),
    "delete": ("before",),
    "curve": ("target", "predict", "label_usd"),
    "estimate": ("current", "volume", "target", *FIGURES, "quantization", "sweep", "bar", "task"),
    "start": (
        "current",
        "volume",
        "target",
        "epochs",
        "patience",
        "engine",
        "quantization",
        "sweep",
        *FIGURES,
    ),
}
