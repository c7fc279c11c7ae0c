"""Microsoft Foundry's fine-tuning of open weights: OpenAI's API without metadata, and with its own requirements."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.peers.service import Reply, Service, StoredJob, refusal

KINDS = ("Standard", "GlobalStandard")  # open weights have no developer tier


@dataclass
class Azure(Service):
    models: Sequence[str] = ("gpt-oss-20b",)

    def _problem(self, body: dict[str, Any]) -> Reply | None:
        rest = {key: value for key, value in body.items() if key != "trainingType"}
        if body.get("trainingType") not in KINDS:
            return refusal(400, "invalid_value", f"trainingType is none of {', '.join(KINDS)}.")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", body.get("suffix") or "-"):
            return refusal(
                400, "invalid_value", "The suffix has characters that are not allowed, or too many."
            )
        if "metadata" in body:
            return refusal(400, "unknown_parameter", "Unknown parameter: metadata.")
        file = self.files.get(body.get("training_file", ""))
        if file and not file.content.startswith(BOM_UTF8):
            return refusal(400, "invalid_file", "The file has no byte order mark.")
        return super()._problem(rest)

    def _openai_part(self, job: StoredJob) -> dict[str, Any]:
        return {**super()._openai_part(job), "suffix": job.request.get("suffix"), "metadata": None}

    def _served(self) -> list[str]:
        return list(self.models)  # a tuned model answers only after it is deployed
