"""The bot's one client for every trainer: OpenAI's fine-tuning API through its SDK, and aliases. It names
what went wrong, never decides what to do about it, and never sends a POST twice: after Uncertain the
caller has to look for the job."""

from __future__ import annotations

import hashlib
import json
import time
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from trainers import chat_parameters, payloads
from trainers.calls import NO_KEY, ApiClient
from trainers.chat_parameters import ChatParameters
from trainers.errors import FileChanged, InvalidResponse, Refused, TrainerError
from trainers.payloads import METADATA_KEY, Json, is_upload_of, job_body, key_reader, upload_name
from trainers.types import (
    AliasUsage,
    Answer,
    Checkpoint,
    Event,
    Hyperparameter,
    Job,
    JobEstimate,
    JobSpec,
    Message,
    Metric,
    ModelInfo,
    Provider,
    SweepArm,
)

if TYPE_CHECKING:  # at the first call: it takes 0.3 s and 20 MB
    import openai
    from openai.resources.fine_tuning.jobs import JobsWithRawResponse
    from openai.types.chat import ChatCompletionMessageParam

UPLOAD_LIFE_S = 30 * 24 * 3600

_PAGE = 100
_MODELS_NAMED = 12
_MAX_ROWS = 20_000

_T = TypeVar("_T")


def find_key(environment: Mapping[str, str], provider: Provider) -> str | None:
    """A row that names no variable for a key, as for Ollama or vLLM, needs none. None: it is missing, or the account
    is."""
    if provider.account_env and not provider.account:
        return None
    return NO_KEY if provider.key_env is None else environment.get(provider.key_env) or None


class Trainer(ApiClient):
    """Every method raises only TrainerError's family. GETs are repeated after a hiccup, POSTs are not. Those on aliases
    are for a trainer with the ability `aliases`."""

    def __init__(self, provider: Provider, key: str) -> None:
        super().__init__(provider, key)
        self._refused: dict[str, frozenset[str]] = {}  # parameters, by model
        self._sent: dict[str, str] = {}  # the sha256 of files whose content is known, by their id

    @property
    def account(self) -> str:
        """Whose jobs and bills these are, as a fingerprint that gives no key away."""
        whose = (self._client.api_key, self._client.organization or "", self._client.project or "")
        return hashlib.sha256("\n".join(whose).encode()).hexdigest()[:12]

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def aliases(self) -> Mapping[str, str]:
        """The model that each stands for."""
        action = self._action("listing the aliases")
        content = self._get(action, lambda: self._client.get("/aliases", cast_to=bytes))
        rows, _ = payloads.read_list(content, action)
        return {payloads.required(row, "id", action): payloads.required(row, "model", action) for row in rows}

    def set_alias(self, alias: str, model: str) -> None:
        """From now on `alias` stands for `model`. Done twice it is as if done once, so it may be sent again."""
        action = self._action(f"pointing {alias!r} to {model!r}")
        body = {"model": model}
        content = self._send_once(
            action, lambda: self._client.put(f"/aliases/{alias}", body=body, cast_to=bytes)
        )
        payloads.read_object(content, action)

    def alias_usage(self, alias: str, since: date) -> tuple[AliasUsage, ...] | None:
        """Returns what was answered under it from that day on. None: this trainer doesn't count."""
        action = self._action(f"reading how much {alias!r} is called")
        path = f"/aliases/{alias}/usage?since={since.isoformat()}"
        content = self._find(action, lambda: self._client.get(path, cast_to=bytes))
        if content is None:
            return None
        return tuple(payloads.alias_usage(row, action) for row in payloads.read_list(content, action)[0])

    def delete_alias(self, alias: str) -> None:
        """The name answers no more; one that is gone already is no error."""
        action = self._action(f"taking the name {alias!r} away")
        self._delete_if_present(action, lambda: self._client.delete(f"/aliases/{alias}", cast_to=bytes))

    def probe(self) -> Refused | None:
        """The no that can be had for free, or None: nothing speaks against training here *so far*.

        It sees a wrong key, a wrong address, a key without rights. It cannot see a hosted service that has
        closed training to this organisation: that one lists jobs and takes uploads as ever, and says
        403 training_not_available at `create` only. So `create` is the proof, and its Refused with
        `is_training_unavailable` obliges the caller to delete what was uploaded.
        """
        try:
            if not self.provider.only_chats:
                self.has_jobs(self.provider.timeout_s)
            self.models()
        except Refused as refusal:
            return refusal
        return None

    def has_jobs(self, timeout_s: float) -> bool:
        """Whether this account ever trained here, whatever came of it: one short look."""
        action = self._action("asking whether we may train")
        content = self._get(action, lambda: self._raw_jobs.list(limit=1, timeout=timeout_s).content)
        rows, _ = payloads.read_list(content, action)
        return bool(rows)

    def models(self) -> tuple[ModelInfo, ...]:
        action = self._action("listing the models")
        rows, _ = payloads.read_list(
            self._get(action, lambda: self._client.models.with_raw_response.list().content), action
        )
        return tuple(payloads.model_info(row, action) for row in rows)

    def catalogue_id(self, names: Collection[str]) -> str | None:
        """What a job calls the model of these names, where that is another; None: the same. Raises Refused where no
        model of these names can be trained."""
        if self.provider.model_lookup is None:
            return None
        wanted = {name.lower() for name in names}
        models = [model for model in self.models() if model.is_trainable]
        fitting = (model.id for model in models if wanted & {model.id.lower(), (model.name or "").lower()})
        result = next(fitting, None)
        if result is None:
            action = self._action(f"looking for the model {next(iter(names), '')!r}")
            theirs = ", ".join(sorted(model.name or model.id for model in models)[:_MODELS_NAMED]) or "none"
            row = f'[providers.{self.provider.name}.models."NAME"]'
            raise Refused(
                f"{action}: it trains none of that name. It trains {theirs}: give one a row under {row} in "
                "finetune.toml.",
                code="model_not_found",
                status=404,
            )
        return result

    def has_model(self, name: str) -> bool:
        """By its own name: a list may leave some out."""
        action, models = self._action(f"looking for the model {name!r}"), self._client.models
        return self._find(action, lambda: models.with_raw_response.retrieve(name).content) is not None

    def upload(self, path: Path, sha256: str, key: str | None = None) -> str:
        """The id of the file of this content, which is looked for before it is sent; with a `key` perhaps of a copy for
        this job alone. Raises FileChanged where the file at `path` isn't of this content."""
        action = self._action(f"uploading {path.name!r}")
        size = payloads.file_size(path, action)
        name = upload_name(sha256, key if self.provider.sends_copies else None)
        result = self._find_file(name, sha256, size + (len(BOM_UTF8) if self.provider.bom else 0))
        return result or self._send_file(path, name, sha256, action)

    def delete_file(self, file_id: str) -> None:
        """Gone afterwards; one that is gone already is no error."""
        action = self._action(f"deleting the file {file_id!r}")
        self._sent.pop(file_id, None)
        self._delete_if_present(action, lambda: self._client.files.with_raw_response.delete(file_id).content)

    def delete_uploads(self, hashes: Collection[str]) -> int:
        """Delete every file of these contents that we sent; how many there were. One list of files."""
        action = self._action("looking for files to delete")
        ours = [row for row in self._files(action) if is_upload_of(row.get("filename"), hashes)]
        for row in ours:
            self.delete_file(payloads.required(row, "id", action))
        return len(ours)

    def delete_model(self, name: str) -> None:
        """A tuned model; one that is gone already is no error."""
        action = self._action(f"deleting the model {name!r}")
        self._delete_if_present(action, lambda: self._client.models.with_raw_response.delete(name).content)

    def delete_job(self, job_id: str) -> None:
        """With its rows and its model, where the trainer has the ability `job_deletion`."""
        action = self._action(f"deleting job {job_id!r}")
        self._delete_if_present(
            action, lambda: self._client.delete(f"/fine_tuning/jobs/{job_id}", cast_to=bytes)
        )

    def download_file(self, file_id: str) -> bytes:
        action = self._action(f"downloading the file {file_id!r}")
        return self._get(action, lambda: self._client.files.with_raw_response.content(file_id).content)

    def has_content(self, file_id: str, sha256: str) -> bool:
        """False also where the provider hands no content out."""
        try:
            content = self.download_file(file_id)
            sent = content.removeprefix(BOM_UTF8) if self.provider.bom else content
            return hashlib.sha256(sent).hexdigest() == sha256
        except (Refused, InvalidResponse):
            return False

    def find_jobs(self, key: str) -> tuple[Job, ...]:
        """The jobs that carry our key, oldest first. An empty answer is no proof: a list may lag behind."""
        action = self._action(f"looking for the job with key {key!r}")
        use_filter = self.provider.can("metadata") and self.provider.can("metadata_filter")
        rows = self._jobs(action, {METADATA_KEY: key} if use_filter else None)
        read_key = key_reader([key], self._file_marks(action))
        return _oldest_first([payloads.job(row, action) for row in rows if read_key(row) == key])

    def jobs_by_key(self, keys: Collection[str], since: float) -> Mapping[str, tuple[Job, ...]]:
        """Every job with one of our keys, oldest first; where metadata is not kept, those of `keys`. Looks back until
        `since` (unix seconds), in a list with the newest first."""
        action, jobs_by_name = self._action("listing the jobs"), defaultdict[str, list[Job]](list)
        read_key = key_reader(keys, self._file_marks(action))
        for row in self._jobs(action, None):
            job = payloads.job(row, action)
            if 0 < job.created_at < since:  # 0: it doesn't say when
                break
            if (key := read_key(row)) is not None:
                jobs_by_name[key].append(job)
        return {key: _oldest_first(jobs) for key, jobs in jobs_by_name.items()}

    def newest_jobs(self, wanted: Collection[str], since: float, pages: int) -> dict[str, Job]:
        """The jobs of these ids, as far as they stand on the first `pages` of the list, the newest first. Looks back
        until `since` (unix seconds), and no further than for the last of them. A list may lag, and show less."""
        action, jobs_by_name = self._action("listing the jobs"), dict[str, Job]()
        for row in islice(self._jobs(action, None), pages * _PAGE):
            job = payloads.job(row, action)
            if job.id in wanted:
                jobs_by_name[job.id] = job
            if len(jobs_by_name) == len(wanted) or job.created_at < since:
                break
        return jobs_by_name

    def estimate(self, spec: JobSpec) -> JobEstimate:
        """What the trainer itself expects the job to cost, where it has the ability `estimate`. Creates nothing."""
        action = self._action("asking what the job would cost")
        request = {"model": spec.model, "training_file": spec.training_file}
        body = {**request, **job_body(self.provider, spec)}
        path = "/fine_tuning/jobs/estimate_price"
        content = self._send_once(action, lambda: self._client.post(path, body=body, cast_to=bytes))
        return payloads.job_estimate(payloads.read_object(content, action), action)

    def describe_exceeded_limit(
        self, model: str, hyperparameters: Mapping[str, Hyperparameter]
    ) -> str | None:
        """Why it would refuse to train the model so, as a sentence, where it has the ability `limits`."""
        return None

    def create(self, spec: JobSpec) -> Job:
        """One POST. Refused: nothing was created. Uncertain or InvalidResponse: perhaps it was; look first."""
        action = self._action(f"creating the job for {spec.suffix!r}")
        content = self._send_once(
            action,
            lambda: (
                self._raw_jobs.create(
                    model=spec.model,
                    training_file=spec.training_file,
                    extra_body=job_body(self.provider, spec),
                    extra_headers={"Idempotency-Key": spec.key},
                ).content
            ),
        )
        return payloads.read_job(content, action)

    def job(self, job_id: str) -> Job:
        action = self._action(f"asking for job {job_id!r}")
        return payloads.read_job(self._get(action, lambda: self._raw_jobs.retrieve(job_id).content), action)

    def cancel(self, job_id: str) -> Job:
        """Refused with 400 where it is final already; pause and resume likewise."""
        return self._change(f"cancelling job {job_id!r}", lambda: self._raw_jobs.cancel(job_id).content)

    def pause(self, job_id: str) -> Job:
        return self._change(f"pausing job {job_id!r}", lambda: self._raw_jobs.pause(job_id).content)

    def resume(self, job_id: str) -> Job:
        return self._change(f"resuming job {job_id!r}", lambda: self._raw_jobs.resume(job_id).content)

    def events(self, job_id: str, limit: int = 20) -> tuple[Event, ...]:
        """The latest `limit` (at most 100), newest first. Some vendors' ids change between calls, and their order: so a
        whole page is read."""
        action = self._action(f"asking for the events of job {job_id!r}")
        content = self._get(action, lambda: self._raw_jobs.list_events(job_id, limit=_PAGE).content)
        rows, _ = payloads.read_list(content, action)
        return payloads.newest_first(payloads.event(row, action) for row in rows)[:limit]

    def events_since(self, job_id: str, since: float, pages: int) -> tuple[tuple[Event, ...], bool]:
        """Those from `since` on (unix seconds), newest first, and whether these are all: at most so many pages are
        read, and of a vendor whose ids change between calls only the first."""
        action, most = self._action(f"asking for the events of job {job_id!r}"), pages * _PAGE
        events: list[Event] = []
        are_all = True
        try:
            for row in islice(self._event_rows(job_id, action), most):
                events.append(payloads.event(row, action))
                if events[-1].created_at < min(since, events[0].created_at):  # the newest came first
                    break
            else:
                are_all = len(events) < most
        except (Refused, InvalidResponse):
            are_all = False
        recent = (event for event in events if event.created_at >= since)
        return payloads.newest_first(recent), are_all

    def _event_rows(self, job_id: str, action: str) -> Iterator[Json]:
        return self._rows(
            action,
            lambda after: self._raw_jobs.list_events(job_id, limit=_PAGE, after=_or_omit(after)).content,
        )

    def checkpoints(self, job_id: str) -> tuple[Checkpoint, ...]:
        action = self._action(f"asking for the checkpoints of job {job_id!r}")
        points = self._client.fine_tuning.jobs.checkpoints.with_raw_response
        rows, _ = payloads.read_list(
            self._get(action, lambda: points.list(job_id, limit=_PAGE).content), action
        )
        return tuple(payloads.checkpoint(row, action) for row in rows)

    def metrics(self, job: Job) -> tuple[Metric, ...]:
        """All lines of the job's result files; where it has none, what an address of their own tells, if there is
        one."""
        action, files = self._results(job)
        if not files:
            path = f"/fine_tuning/jobs/{job.id}/metrics"
            content = self._find(action, lambda: self._client.get(path, cast_to=bytes))
            return (
                ()
                if content is None
                else payloads.metric_series(payloads.read_object(content, action), action)
            )
        return tuple(
            line
            for file in files
            if not payloads.is_sweep_table(file)
            for line in payloads.metrics(file, action)
        )

    def arms(self, job: Job) -> tuple[SweepArm, ...]:
        """Of a sweep; empty where it was none."""
        action, files = self._results(job)
        return tuple(
            arm
            for file in files
            if payloads.is_sweep_table(file)
            for arm in payloads.sweep_arms(file, action)
        )

    def chat(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0,
        thinks: bool | None = None,
        timeout_s: float | None = None,
        tools: str = "",
    ) -> Answer:
        """`thinks`: before it answers, in hidden tokens, which `max_tokens` has to have room for; None: as its name
        says. 'MODEL@low' is MODEL, which may think a little. `tools`: those that it may call, as JSON. A parameter that
        the model refuses is left out from then on; being refused costs nothing."""
        is_thinking = chat_parameters.thinks(model) if thinks is None else thinks
        model, _ = chat_parameters.split_effort(model)
        while True:
            refused = self._refused.get(model, frozenset())
            parameters = chat_parameters.parameters_for(model, is_thinking, max_tokens, temperature, refused)
            try:
                return self._chat(model, messages, tools, parameters, timeout_s or self.provider.timeout_s)
            except Refused as refusal:
                more = chat_parameters.refused_parameters(parameters, refused, refusal)
                if more is None:
                    raise
                # Another thread may have learnt of a further parameter since this question was put together.
                self._refused[model] = self._refused.get(model, frozenset()) | more

    def _chat(
        self,
        model: str,
        messages: Sequence[Message],
        tools: str,
        parameters: ChatParameters,
        timeout_s: float,
    ) -> Answer:
        action = self._action(f"asking the model {model!r}")
        url = self.provider.chat_base_url
        client = self._client.with_options(base_url=url) if url else self._client
        completions = client.chat.completions.with_raw_response
        entries = [payloads.chat_message(message) for message in messages]
        started = time.monotonic()
        content = self._send_once(
            action,
            lambda: (
                completions.create(
                    model=model,
                    messages=cast("list[ChatCompletionMessageParam]", entries),
                    tools=_or_omit(json.loads(tools) if tools else None),
                    max_tokens=_or_omit(parameters.max_tokens),
                    max_completion_tokens=_or_omit(parameters.max_completion_tokens),
                    temperature=_or_omit(parameters.temperature),
                    reasoning_effort=_or_omit(parameters.reasoning_effort),
                    extra_body=dict(self.provider.chat_extra) or None,
                    timeout=timeout_s,
                ).content
            ),
        )
        seconds = time.monotonic() - started
        return payloads.chat_answer(payloads.read_object(content, action), action, seconds)

    def _results(self, job: Job) -> tuple[str, list[bytes]]:
        action = self._action(f"reading the results of job {job.id!r}")
        return action, [self.download_file(file) for file in job.result_files]

    def _find_file(self, name: str, sha256: str, size: int) -> str | None:
        """A name and a size prove nothing: anyone who has the account's key may have put another file there. So it
        counts where this client sent it, or where its content is the same."""
        action = self._action(f"looking for the file {name!r}")
        for row in self._files(action):
            if payloads.is_upload_usable(row, name, size):
                file_id = payloads.required(row, "id", action)
                if self._sent.get(file_id) == sha256 or self.has_content(file_id, sha256):
                    self._sent[file_id] = sha256
                    return file_id
        return None

    def _file_marks(self, action: str) -> dict[str, str]:
        """Whose job each file was sent for, where every job has a copy of its own."""
        return payloads.file_marks(self._files(action)) if self.provider.sends_copies else {}

    def _files(self, action: str) -> Iterator[Json]:
        files = self._client.files.with_raw_response
        return self._rows(
            action,
            lambda after: files.list(purpose="fine-tune", limit=_PAGE, after=_or_omit(after)).content,
        )

    def _send_file(self, path: Path, name: str, sha256: str, action: str) -> str:
        """Looked at before, so that no other bytes leave, and while it is sent, for it may change meanwhile."""
        try:
            with payloads.file_to_send(path, sha256, bom=self.provider.bom) as (file, wanted):
                content = self._send_once(action, lambda: self._post_file(name, file))
        except OSError as error:
            raise TrainerError(f"{action}: the file cannot be read: {error.strerror}.") from error
        file_id = payloads.required(payloads.read_object(content, action), "id", action)
        if file.sha256 != wanted:
            self.delete_file(file_id)
            raise FileChanged(path.name)
        self._sent[file_id] = sha256
        return file_id

    def _post_file(self, name: str, file: BinaryIO) -> bytes:
        expiry = {"expires_after": {"anchor": "created_at", "seconds": UPLOAD_LIFE_S}}
        extra = expiry if self.provider.can("expires_after") else None
        files = self._client.files.with_raw_response
        return files.create(file=(name, file), purpose="fine-tune", extra_body=extra).content

    @property
    def _raw_jobs(self) -> JobsWithRawResponse:
        return self._client.fine_tuning.jobs.with_raw_response

    def _change(self, what: str, call: Callable[[], bytes]) -> Job:
        """The job after a change. One POST, never repeated by itself."""
        action = self._action(what)
        return payloads.read_job(self._send_once(action, call), action)

    def _jobs(self, action: str, filter_by: dict[str, str] | None) -> Iterator[Json]:
        return self._rows(
            action,
            lambda after: (
                self._raw_jobs.list(
                    limit=_PAGE, after=_or_omit(after), metadata=_or_omit(filter_by or None)
                ).content
            ),
        )

    def _rows(self, action: str, page: Callable[[str | None], bytes]) -> Iterator[Json]:
        """Every row of every page. A look that cannot be finished is InvalidResponse, never a short answer."""
        after: str | None = None
        seen: set[str] = set()
        while True:
            rows, more = payloads.read_list(self._get(action, partial(page, after)), action)
            yield from rows
            if not rows or not more:
                return
            after = payloads.required(rows[-1], "id", action)
            if after in seen or len(seen) * _PAGE >= _MAX_ROWS:
                raise InvalidResponse(
                    f"{action}: the list does not end; it answers with the same page again and again."
                )
            seen.add(after)


def _or_omit(value: _T | None) -> _T | openai.Omit:
    import openai

    return openai.omit if value is None else value


def _oldest_first(newest_first: list[Job]) -> tuple[Job, ...]:
    """Jobs of the same second keep the order in which they were listed, turned round."""
    jobs = newest_first[::-1]
    jobs.sort(key=lambda job: job.created_at)
    return tuple(jobs)
