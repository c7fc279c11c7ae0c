"""The work of retrieval that is done in worker processes: checks whether a document can be used, and looks up passages
or examples for each held-out row. No model is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bot.cards.documents import why_unreadable
from bot.values.evaluations import LadderPlan
from bot.values.runs import Refusal
from trainers.dataset import Example
from trainers.dataset.sensitive_data import SECRET, faults_in
from trainers.documents import Unreadable, read_document, split_passages, store_text
from trainers.encoders import DEFAULT_ENCODER
from trainers.encoders.embedding import StoredVectors, load_encoder
from trainers.evaluation.results import Candidate
from trainers.evaluation.retrieval import Nearest, nearest_examples, nearest_passages


def read_passages(path: Path) -> int | Refusal:
    """Returns the number of passages of a document, or why it can't be used. Stores its text if it can."""
    text = read_document(path)
    if isinstance(text, Unreadable):
        return Refusal(why_unreadable(text))
    passages = split_passages(text)
    faults = [fault for passage in passages for fault in faults_in(passage)]
    secret = next((fault for fault in faults if fault.rule == SECRET), None)
    if secret:
        return Refusal(f"It {secret.text}. {secret.rule.cure}")
    store_text(path, text)
    return len(passages)


def look_up(
    plan: LadderPlan, train: Sequence[Example], holdout: Sequence[Example], files: Path, vectors: Path
) -> Mapping[Candidate, Nearest]:
    """Returns the passages or examples that each retrieval candidate is shown; they are looked up once for all
    candidates that may see the same. The texts' vectors are stored in the file `vectors`, for the rung `encoder` and
    for later calls, as when a candidate is added to the plan. Raises EncoderError if the encoder can't be used."""
    arms = [arm for arm in plan.arms if arm.rung == "retrieval"]
    if not arms:
        return {}
    passages = [passage for sha256 in plan.documents for passage in _passages_in(files / sha256)]
    visible = {arm: _visible(arm, plan, passages) for arm in arms}
    encoder = StoredVectors(load_encoder(plan.encoder or DEFAULT_ENCODER), vectors)
    has_labels = bool(plan.labels)
    nearest: dict[tuple[str, ...], Nearest] = {}
    for texts in set(visible.values()):
        if texts:
            looked_up = nearest_passages(texts, train, holdout, encoder, has_labels=has_labels)
            about = replace(looked_up.retrieval, documents=len(plan.documents))
            nearest[texts] = replace(looked_up, retrieval=about)
        else:
            nearest[texts] = nearest_examples(train, holdout, encoder, has_labels=has_labels)
    return {arm: nearest[texts] for arm, texts in visible.items()}


def _passages_in(path: Path) -> tuple[str, ...]:
    text = read_document(path)
    if isinstance(text, Unreadable):  # impossible, since it was readable when it was uploaded
        raise ValueError(f"reading the document {path.name}: {text.trouble}")
    return split_passages(text)


def _visible(arm: Candidate, plan: LadderPlan, passages: Sequence[str]) -> tuple[str, ...]:
    """Returns the passages that a candidate may be shown: none with a secret, which newer patterns may recognise in an
    old document, and none with personal data if the model is in `withheld_from`."""
    withheld = arm.model in plan.withheld_from
    return tuple(
        passage
        for passage in passages
        if not any(withheld or fault.rule == SECRET for fault in faults_in(passage))
    )
