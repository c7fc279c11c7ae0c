"""Answers for encoders, in one thread of the server and without torch. Requests to other models are passed on to the
engine that writes text. A trained encoder answers with one of its labels and its probability, an untrained one with
vectors."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import cast

from trainers.dataset import Example
from trainers.encoders import EncoderError
from trainers.encoders.classifier import Classification, Classifier, load_classifier
from trainers.encoders.embedding import load_encoder
from trainers.evaluation.tfidf import text_of
from trainers.http.errors import ApiError, invalid
from trainers.local.serving.answers import check_queue, internal_error
from trainers.local.serving.values import (
    AnswerEnd,
    ChatMessage,
    EmbeddingRequest,
    Embeddings,
    GenerationEngine,
    Likelihood,
    Outcome,
    PendingRequest,
    Piece,
    Request,
    Ticket,
    adapter_gone_error,
)
from trainers.types import Message, Role

ENCODERS_IN_MEMORY = 4
CLASSIFIERS_IN_MEMORY = 64
ROWS_PER_SECOND = 20.0


class EncoderEngine:
    def __init__(self, writer: GenerationEngine) -> None:
        self._writer = writer
        self._encoder = lru_cache(ENCODERS_IN_MEMORY)(load_encoder)
        self._classifiers: OrderedDict[Path, Classifier] = OrderedDict()
        self._lock = threading.Lock()  # guards the count of open rows
        self._open_rows = 0
        self._thread = ThreadPoolExecutor(1, "encoder")  # which starts with the first request

    def submit(self, request: PendingRequest) -> Ticket:
        """Raises ApiError: 400 or 404 if an encoder can't do this, 503 if too many requests are queued."""
        if not request.target.is_encoder:
            return self._writer.submit(request)
        check_request(request)
        with self._lock:
            check_queue(self._open_rows, request.rows, ROWS_PER_SECOND)
            self._open_rows += request.rows
        self._thread.submit(self._answer, request)
        return request.ticket

    def forget_texts(self) -> None:
        self._writer.forget_texts()

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._writer.stop()

    def _answer(self, request: PendingRequest) -> None:
        try:
            if not request.ticket.is_abandoned:
                for outcome in self._outcomes(request):
                    request.emit(outcome)
        except ApiError as problem:
            request.emit(problem)
        except EncoderError as error:
            request.emit(ApiError(500, str(error), "encoder_not_loaded", "model", kind="server_error"))
        except Exception as error:  # logged; the caller gets a reference
            request.emit(internal_error(error))
        finally:
            with self._lock:
                self._open_rows -= request.rows

    def _outcomes(self, request: PendingRequest) -> Iterable[Outcome]:
        if isinstance(request, EmbeddingRequest):
            encoder = self._encoder(request.target.base)
            vectors = encoder.embed(request.texts).tolist()
            return [Embeddings(tuple(map(tuple, vectors)), encoder.count_tokens(request.texts))]
        text = text_to_classify(request.messages)
        classifier = self._classifier(request)
        (answer,) = classifier.classify([text])
        tokens = classifier.encoder.count_tokens([text])
        outcomes: list[Outcome] = []
        for index in range(request.rows):
            outcomes += _label_outcomes(request, index, answer, tokens)
        return outcomes

    def _classifier(self, request: Request) -> Classifier:
        folder = cast(Path, request.target.adapter)
        if not folder.is_dir():
            self._classifiers.pop(folder, None)
            raise adapter_gone_error(folder)
        if folder not in self._classifiers:
            self._classifiers[folder] = load_classifier(folder, self._encoder)
            if len(self._classifiers) > CLASSIFIERS_IN_MEMORY:
                self._classifiers.popitem(last=False)
        self._classifiers.move_to_end(folder)
        return self._classifiers[folder]


def check_request(request: PendingRequest) -> None:
    """Raises ApiError if an encoder can't do this."""
    if isinstance(request, EmbeddingRequest):
        if request.target.adapter is not None:
            text = "A trained encoder answers with a label. Ask its base for embeddings."
            raise ApiError(404, text, "model_cannot_embed", "model")
        return
    if request.prompt is not None:
        raise invalid("An encoder can't continue text. Use /v1/chat/completions.", "model")
    if request.target.adapter is None:
        text = "This encoder can't answer before it is trained on labels. Fine-tune it, or use another model."
        raise invalid(text, "model", "model_not_trained")
    if request.tools.required:
        raise invalid("An encoder can't call tools. Leave 'tool_choice' out.", "tool_choice")
    if request.sampling.grammar is not None:
        text = (
            "An encoder always answers with one of the labels that it was trained on. Leave 'response_format', "
            "'guided_choice' and 'structured_outputs' out."
        )
        raise invalid(text, "response_format")
    if not text_to_classify(request.messages):
        raise invalid("There is no text to label: 'messages' has no message of a user.", "messages")


def text_to_classify(messages: Iterable[ChatMessage]) -> str:
    """Returns the text that an encoder reads, as in training: everything before the answer, without instructions."""
    turns = (Message(cast(Role, message.role), message.content) for message in messages)
    return text_of(Example(0, (*turns, Message("assistant", ""))))


def _label_outcomes(
    request: Request, index: int, answer: Classification, prompt_tokens: int
) -> Iterable[Outcome]:
    """Yields the label as a single piece, which counts as one token."""
    top = request.sampling.top_logprobs
    ranked = [(answer.label, answer.probability), *answer.others]
    tokens: tuple[Likelihood, ...] = ()
    if top is not None:
        (first, *_) = likely = [(label.encode(), math.log(max(share, 1e-12))) for label, share in ranked]
        tokens = (Likelihood(*first, tuple(likely[:top])),)
    yield Piece(index, answer.label, tokens)
    yield AnswerEnd(index, "stop", prompt_tokens, 1, answer)
