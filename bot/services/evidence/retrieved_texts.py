"""What candidates with retrieval show in their prompts: passages of the team's documents, or training rows. For worker
processes, since texts are embedded here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bot.values.evaluations import ComparisonPlan
from trainers.dataset import Example
from trainers.dataset.sensitive_data import SECRET, faults_in
from trainers.documents import Unreadable, read_document, split_passages
from trainers.encoders import DEFAULT_ENCODER
from trainers.encoders.embedding import StoredVectors, load_encoder
from trainers.evaluation.results import Candidate
from trainers.evaluation.retrieval import Nearest, nearest_examples, nearest_passages


def look_up(
    plan: ComparisonPlan, train: Sequence[Example], holdout: Sequence[Example], files: Path, vectors: Path
) -> Mapping[Candidate, Nearest]:
    """Returns the passages or examples that each retrieval candidate is shown; they are looked up once for all
    candidates that may see the same. The texts' vectors are stored in the file `vectors`, for the candidate `encoder`
    and for later calls, as when a candidate is added to the plan. Raises EncoderError if the encoder can't be used."""
    candidates = [candidate for candidate in plan.candidates if candidate.kind == "retrieval"]
    if not candidates:
        return {}
    passages = read_passages(plan, files)
    visible = {candidate: visible_passages(candidate, plan, passages) for candidate in candidates}
    name = plan.encoder or DEFAULT_ENCODER
    encoder = StoredVectors(load_encoder(name), vectors)
    has_labels = bool(plan.labels)
    nearest: dict[tuple[str, ...], Nearest] = {}
    for texts in set(visible.values()):
        if texts:
            looked_up = nearest_passages(texts, train, holdout, encoder, has_labels=has_labels)
            about = replace(looked_up.retrieval, documents=len(plan.documents))
            nearest[texts] = replace(looked_up, retrieval=about)
        else:
            nearest[texts] = nearest_examples(train, holdout, encoder, has_labels=has_labels)
    return {candidate: nearest[texts] for candidate, texts in visible.items()}


def read_passages(plan: ComparisonPlan, files: Path) -> list[str]:
    """Returns the passages of all documents of the plan, in their order."""
    passages: list[str] = []
    for sha256 in plan.documents:
        passages += _passages_in(files / sha256)
    return passages


def _passages_in(path: Path) -> tuple[str, ...]:
    text = read_document(path)
    if isinstance(text, Unreadable):  # impossible, since it was readable when it was uploaded
        raise ValueError(f"reading the document {path.name}: {text.trouble}")
    return split_passages(text)


def visible_passages(candidate: Candidate, plan: ComparisonPlan, passages: Sequence[str]) -> tuple[str, ...]:
    """Returns the passages that a candidate may be shown: none with a secret, which newer patterns may recognise in an
    old document, and none with personal data if the model is in `withheld_from`."""
    is_withheld = candidate.model in plan.withheld_from
    visible = []
    for passage in passages:
        rules = {fault.rule for fault in faults_in(passage)}
        has_secret = SECRET in rules
        is_personal = is_withheld and bool(rules)
        if not has_secret and not is_personal:
            visible.append(passage)
    return tuple(visible)
