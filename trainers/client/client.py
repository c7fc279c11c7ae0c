"""The bot's client for every trainer: OpenAI's fine-tuning API through its SDK, plus aliases.

It reports what went wrong but doesn't decide what to do about it, and never sends a POST twice: after Uncertain or
InvalidResponse the caller has to check whether the job exists.
"""

from __future__ import annotations

import hashlib
import time
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trainers.client import payloads, uploads
from trainers.client.calls import NO_KEY, ApiClient
from trainers.client.payloads import METADATA_KEY, Json, job_body, key_reader
from trainers.client.uploads import HashingFile, is_upload_of, upload_name
from trainers.errors import FileChanged, InvalidResponse, Refused, TrainerError
from trainers.models import chat_parameters
from trainers.models.chat_parameters import ChatParameters
from trainers.types import (
    AliasUsage,
    Answer,
    Event,
    Hyperparameter,
    Job,
    JobEstimate,
    JobSpec,
    Message,
    Metric,
    ModelInfo,
    Provider,
    SweepTrial,
)

if TYPE_CHECKING:  # imported at the first call, since it takes 0.3 s and 20 MB
    import openai
    from openai._legacy_response import LegacyAPIResponse
    from openai.resources.fine_tuning.jobs import JobsWithRawResponse
    from openai.types.fine_tuning import FineTuningJob

# Uploads expire at the vendor even if the bot is gone and can't delete them.
UPLOAD_LIFE_S = 30 * 24 * 3600

_PAGE = 100
_MODELS_NAMED = 12
# A faulty server could name new rows without end.
_MAX_ROWS = 20_000

_T = TypeVar("_T")


def find_key(environment: Mapping[str, str], provider: Provider) -> str | None:
    """Returns the provider's API key, NO_KEY if it needs none (such as Ollama or vLLM), or None if the key or the
    account is not set."""
    if provider.account_env and not provider.account:
        return None
    if provider.key_env is None:
        return NO_KEY
    return environment.get(provider.key_env) or None


class Trainer(ApiClient):
    """Methods raise only TrainerErrors. GETs are retried after a transient failure, POSTs are not. The methods on
    aliases need a trainer with the ability `aliases`."""

    def __init__(self, provider: Provider, key: str) -> None:
        super().__init__(provider, key)
        self._refused: dict[str, frozenset[str]] = {}  # refused chat parameters, by model
        self._sent: dict[str, str] = {}  # sha256 of uploaded files whose content is known, by file id

    @property
    def account(self) -> str:
        """A fingerprint of the account that owns the jobs and pays the bills. It does not reveal the key."""
        # The SDK takes organisation and project from the environment, and they decide who pays.
        client = self._client
        owner = (client.api_key, client.organization or "", client.project or "")
        joined = "\n".join(owner)
        return hashlib.sha256(joined.encode()).hexdigest()[:12]

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def aliases(self) -> Mapping[str, str]:
        """Returns the model that each alias stands for."""
        action = self._action("listing the aliases")
        content = self._get(action, partial(self._client.get, "/aliases", cast_to=bytes))
        rows, _ = payloads.read_list(content, action)
        models: dict[str, str] = {}
        for row in rows:
            alias = payloads.required(row, "id", action)
            models[alias] = payloads.required(row, "model", action)
        return models

    def set_alias(self, alias: str, model: str) -> None:
        """Makes `alias` stand for `model` from now on. Idempotent, so it may be sent again."""
        action = self._action(f"pointing {alias!r} to {model!r}")
        body = {"model": model}
        put = partial(self._client.put, f"/aliases/{alias}", body=body, cast_to=bytes)
        content = self._send_once(action, put)
        payloads.read_object(content, action)

    def alias_usage(self, alias: str, since: date) -> tuple[AliasUsage, ...] | None:
        """Returns the usage of an alias from that day on, or None if this trainer doesn't count it."""
        action = self._action(f"reading how much {alias!r} is called")
        path = f"/aliases/{alias}/usage?since={since.isoformat()}"
        read = partial(self._client.get, path, cast_to=bytes)
        content = self._find(action, read)
        if content is None:
            return None
        rows, _ = payloads.read_list(content, action)
        return tuple(payloads.alias_usage(row, action) for row in rows)

    def delete_alias(self, alias: str) -> None:
        """Deletes an alias. It is no error if it doesn't exist."""
        action = self._action(f"deleting the alias {alias!r}")
        delete = partial(self._client.delete, f"/aliases/{alias}", cast_to=bytes)
        self._delete_if_present(action, delete)

    def probe(self) -> Refused | None:
        """Checks for free whether the trainer would refuse us. Returns the refusal, or None if there was none *so far*.

        This detects a wrong key, a wrong address, and a key without permissions. It can't detect a hosted service that
        no longer trains for this organisation: such a service still lists jobs and accepts uploads, and answers 403
        training_not_available only to `create`. After that the caller must delete what it uploaded.
        """
        try:
            # A provider that only answers has no list of jobs, and its 404 would look like a refusal.
            if not self.provider.only_chats:
                self.has_jobs(self.provider.timeout_s)
            self.models()
        except Refused as refusal:
            return refusal
        return None

    def has_jobs(self, timeout_s: float) -> bool:
        """Returns True if this account has ever created a job here, whatever its outcome. One short request."""
        action = self._action("checking for earlier jobs")
        jobs = self._raw_jobs
        content = self._get(action, lambda: jobs.list(limit=1, timeout=timeout_s).content)
        rows, _ = payloads.read_list(content, action)
        return bool(rows)

    def models(self) -> tuple[ModelInfo, ...]:
        action = self._action("listing the models")
        models = self._client.models.with_raw_response
        content = self._get(action, lambda: models.list().content)
        rows, _ = payloads.read_list(content, action)
        return tuple(payloads.model_info(row, action) for row in rows)

    def catalogue_id(self, names: Collection[str]) -> str | None:
        """Returns the id under which jobs must name the model that has one of these names, or None if this provider
        needs no such id. Raises Refused if no trainable model has any of these names."""
        if self.provider.model_lookup is None:
            return None
        wanted = {name.lower() for name in names}
        models = [model for model in self.models() if model.is_trainable]
        for model in models:
            name = model.name or ""
            own_names = {model.id.lower(), name.lower()}
            if not wanted.isdisjoint(own_names):
                return model.id
        example = next(iter(names), "")
        action = self._action(f"looking for the model {example!r}")
        available = sorted(model.name or model.id for model in models)
        listed = ", ".join(available[:_MODELS_NAMED]) or "none"
        row = f'[providers.{self.provider.name}.models."NAME"]'
        raise Refused(
            f"{action}: no trainable model has that name. It trains {listed}. To use one, add it as {row} in "
            "finetune.toml.",
            code="model_not_found",
            status=404,
        )

    def has_model(self, name: str) -> bool:
        """Asks for the model by name, because lists of models may be incomplete."""
        action = self._action(f"looking for the model {name!r}")
        models = self._client.models.with_raw_response
        content = self._find(action, lambda: models.retrieve(name).content)
        return content is not None

    def upload(self, path: Path, sha256: str, key: str | None = None) -> str:
        """Returns the id of an uploaded file with this content, and uploads it if there is none yet.

        If jobs are recognised by their file, the file is a copy for the job with this `key` alone. Raises FileChanged
        if the file at `path` doesn't have this sha256.
        """
        action = self._action(f"uploading {path.name!r}")
        size = uploads.file_size(path, action)
        if self.provider.bom:
            # The vendor counts the mark that is put before the rows, too.
            size += len(BOM_UTF8)
        job_key = None
        if self.provider.sends_copies:
            job_key = key
        name = upload_name(sha256, job_key)
        # An upload whose answer was lost is found again, so the rows are not sent twice.
        earlier = self._find_file(name, sha256, size)
        if earlier is not None:
            return earlier
        return self._send_file(path, name, sha256, action)

    def delete_file(self, file_id: str) -> None:
        """Deletes a file. It is no error if it doesn't exist."""
        action = self._action(f"deleting the file {file_id!r}")
        # First, so that a delete whose answer is lost doesn't leave the file looking usable.
        self._sent.pop(file_id, None)
        files = self._client.files.with_raw_response
        self._delete_if_present(action, lambda: files.delete(file_id).content)

    def delete_uploads(self, hashes: Collection[str]) -> int:
        """Deletes every file with one of these sha256 that we uploaded, and returns how many there were."""
        action = self._action("looking for files to delete")
        # Read to the end first: the next page is asked for by an id that may be deleted by then.
        ours = [row for row in self._files(action) if is_upload_of(row.get("filename"), hashes)]
        for row in ours:
            file_id = payloads.required(row, "id", action)
            self.delete_file(file_id)
        return len(ours)

    def delete_model(self, name: str) -> None:
        """Deletes a tuned model. It is no error if it doesn't exist."""
        action = self._action(f"deleting the model {name!r}")
        models = self._client.models.with_raw_response
        self._delete_if_present(action, lambda: models.delete(name).content)

    def delete_job(self, job_id: str) -> None:
        """Deletes a job with its rows and its model. Needs the ability `job_deletion`."""
        action = self._action(f"deleting job {job_id!r}")
        delete = partial(self._client.delete, f"/fine_tuning/jobs/{job_id}", cast_to=bytes)
        self._delete_if_present(action, delete)

    def download_file(self, file_id: str) -> bytes:
        action = self._action(f"downloading the file {file_id!r}")
        files = self._client.files.with_raw_response
        return self._get(action, lambda: files.content(file_id).content)

    def has_content(self, file_id: str, sha256: str) -> bool:
        """Returns True if the uploaded file has this sha256. False also if the provider doesn't return contents."""
        try:
            # Uncertain is passed on: to send the rows again could leave a second copy there.
            content = self.download_file(file_id)
        except (Refused, InvalidResponse):
            return False
        if self.provider.bom:  # which this client put before the rows
            content = content.removeprefix(BOM_UTF8)
        return hashlib.sha256(content).hexdigest() == sha256

    def find_jobs(self, key: str) -> tuple[Job, ...]:
        """Returns the jobs that carry our key, oldest first. An empty result proves nothing, since lists may lag
        behind."""
        action = self._action(f"looking for the job with key {key!r}")
        filter_by: dict[str, str] | None = None
        if self.provider.can("metadata") and self.provider.can("metadata_filter"):
            filter_by = {METADATA_KEY: key}
        marks = self._file_marks(action)
        read_key = key_reader([key], marks)
        jobs = []
        for row in self._jobs(action, filter_by):
            # A server may ignore the filter, so each row's own key is compared as well.
            if read_key(row) == key:
                jobs.append(payloads.job(row, action))
        return _oldest_first(jobs)

    def jobs_by_key(self, keys: Collection[str], since: float) -> Mapping[str, tuple[Job, ...]]:
        """Returns all jobs with one of our keys, oldest first, back to `since` (unix seconds).

        A provider that keeps no metadata can only be searched for `keys`; elsewhere jobs with other keys are included.
        """
        action = self._action("listing the jobs")
        jobs_by_key: dict[str, list[Job]] = defaultdict(list)
        marks = self._file_marks(action)
        read_key = key_reader(keys, marks)
        for row in self._jobs(action, None):
            job = payloads.job(row, action)
            if 0 < job.created_at < since:  # the list has the newest first; 0 means unknown
                break
            key = read_key(row)
            if key is not None:
                jobs_by_key[key].append(job)
        return {key: _oldest_first(jobs) for key, jobs in jobs_by_key.items()}

    def newest_jobs(self, wanted: Collection[str], since: float, pages: int) -> dict[str, Job]:
        """Returns those of the `wanted` job ids that are on the first `pages` of the list and not older than `since`
        (unix seconds), by id. Some may be missing, since lists may lag behind."""
        action = self._action("listing the jobs")
        jobs_by_id: dict[str, Job] = {}
        most = pages * _PAGE
        for row in islice(self._jobs(action, None), most):
            job = payloads.job(row, action)
            if job.id in wanted:
                jobs_by_id[job.id] = job
            has_all = len(jobs_by_id) == len(wanted)
            is_too_old = 0 < job.created_at < since  # 0 means unknown
            if has_all or is_too_old:
                break
        return jobs_by_id

    def estimate(self, spec: JobSpec) -> JobEstimate:
        """Returns what the trainer itself expects the job to cost. Needs the ability `estimate`; creates nothing."""
        action = self._action("asking what the job would cost")
        body = job_body(self.provider, spec)
        body["model"] = spec.model
        body["training_file"] = spec.training_file
        answer = self._post(action, "/fine_tuning/jobs/estimate_price", body)
        return payloads.job_estimate(answer, action)

    def describe_exceeded_limit(
        self, model: str, hyperparameters: Mapping[str, Hyperparameter], *, has_tools: bool = False
    ) -> str | None:
        """Returns a sentence if the model doesn't accept these hyperparameters, or rows with tools if the file
        `has_tools`, else None. Trainers with the ability `limits` override this."""
        return None

    def create(self, spec: JobSpec) -> Job:
        """Creates a job with a single POST. Refused means that nothing was created; after Uncertain or InvalidResponse
        a job may exist, so look for it first."""
        action = self._action(f"creating the job for {spec.suffix!r}")
        body = job_body(self.provider, spec)

        def send() -> bytes:
            return self._raw_jobs.create(
                model=spec.model,
                training_file=spec.training_file,
                extra_body=body,
                # Not every vendor honours it, so a create whose answer was lost still has to be looked for.
                extra_headers={"Idempotency-Key": spec.key},
            ).content

        content = self._send_once(action, send)
        return payloads.read_job(content, action)

    def job(self, job_id: str) -> Job:
        action = self._action(f"asking for job {job_id!r}")
        jobs = self._raw_jobs
        content = self._get(action, lambda: jobs.retrieve(job_id).content)
        return payloads.read_job(content, action)

    def cancel(self, job_id: str) -> Job:
        """Cancels a job. Like `pause` and `resume`, it raises Refused (HTTP 400) if the job has already ended."""
        return self._change("cancelling", job_id, self._raw_jobs.cancel)

    def pause(self, job_id: str) -> Job:
        return self._change("pausing", job_id, self._raw_jobs.pause)

    def resume(self, job_id: str) -> Job:
        return self._change("resuming", job_id, self._raw_jobs.resume)

    def events(self, job_id: str, limit: int = 20) -> tuple[Event, ...]:
        """Returns the latest `limit` events (at most 100), newest first. Always reads a whole page, because some
        vendors change the order and the ids of events between calls."""
        action = self._action(f"asking for the events of job {job_id!r}")
        jobs = self._raw_jobs
        content = self._get(action, lambda: jobs.list_events(job_id, limit=_PAGE).content)
        rows, _ = payloads.read_list(content, action)
        events = payloads.newest_first(payloads.event(row, action) for row in rows)
        return events[:limit]

    def events_since(self, job_id: str, since: float, pages: int) -> tuple[tuple[Event, ...], bool]:
        """Returns the events from `since` on (unix seconds), newest first, and whether these are all of them.

        Reads at most `pages` pages. Of vendors whose event ids change between calls only the first page can be read.
        """
        action = self._action(f"asking for the events of job {job_id!r}")
        most = pages * _PAGE
        events: list[Event] = []
        are_all = True
        try:
            for row in islice(self._event_rows(job_id, action), most):
                event = payloads.event(row, action)
                events.append(event)
                newest = events[0].created_at
                if event.created_at < min(since, newest):  # only if listed newest first
                    break
            else:
                are_all = len(events) < most
        # Where event ids change between calls, the second page fails; the first is still of use.
        except (Refused, InvalidResponse):
            are_all = False
        recent = (event for event in events if event.created_at >= since)
        return payloads.newest_first(recent), are_all

    def _event_rows(self, job_id: str, action: str) -> Iterator[Json]:
        def page(after: str | None) -> bytes:
            return self._raw_jobs.list_events(job_id, limit=_PAGE, after=_or_omit(after)).content

        return self._rows(action, page)

    def metrics(self, job: Job) -> tuple[Metric, ...]:
        """Returns the metrics from the job's result files or, if it has none, from the job's /metrics endpoint."""
        action, files = self._results(job)
        if not files:
            path = f"/fine_tuning/jobs/{job.id}/metrics"
            series = self._look_up(action, path)
            if series is None:
                return ()
            return payloads.metric_series(series, action)
        metrics: list[Metric] = []
        for file in files:
            if not payloads.is_sweep_table(file):
                metrics += payloads.metrics(file, action)
        return tuple(metrics)

    def trials(self, job: Job) -> tuple[SweepTrial, ...]:
        """Returns the trials of a sweep; empty if the job was not a sweep."""
        action, files = self._results(job)
        trials: list[SweepTrial] = []
        for file in files:
            if payloads.is_sweep_table(file):
                trials += payloads.sweep_trials(file, action)
        return tuple(trials)

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
        """Asks a model. 'MODEL@low' asks MODEL and lets it think a little.

        `max_tokens` includes hidden tokens. `thinks` says whether the model thinks before it answers; None decides by
        its name. `tools` are the tools that it may call, as JSON. A parameter that the model refuses is left out from
        then on; a refusal costs nothing.
        """
        is_thinking = thinks
        if is_thinking is None:
            is_thinking = chat_parameters.thinks(model)
        model, _ = chat_parameters.split_effort(model)
        while True:
            refused = self._refused.get(model, frozenset())
            parameters = chat_parameters.parameters_for(model, is_thinking, max_tokens, temperature, refused)
            limit_s = timeout_s or self.provider.timeout_s
            try:
                return self._chat(model, messages, tools, parameters, limit_s)
            except Refused as refusal:
                more = chat_parameters.refused_parameters(parameters, refused, refusal)
                if more is None:
                    raise
                # Another thread may have learnt of another refused parameter in the meantime.
                known_by_now = self._refused.get(model, frozenset())
                self._refused[model] = known_by_now | more

    def _chat(
        self,
        model: str,
        messages: Sequence[Message],
        tools: str,
        parameters: ChatParameters,
        timeout_s: float,
    ) -> Answer:
        action = self._action(f"asking the model {model!r}")
        body = payloads.chat_body(model, messages, tools, parameters)
        body |= self.provider.chat_extra
        url = f"{self.provider.chat_base_url}/chat/completions"
        started = time.monotonic()
        # The SDK's own method would walk through each message by its types, which takes twice as long as the request.
        answer = self._post(action, url, body, timeout_s)
        seconds = time.monotonic() - started
        return payloads.chat_answer(answer, action, seconds)

    def _results(self, job: Job) -> tuple[str, list[bytes]]:
        action = self._action(f"reading the results of job {job.id!r}")
        files = [self.download_file(file) for file in job.result_files]
        return action, files

    def _find_file(self, name: str, sha256: str, size: int) -> str | None:
        """Returns the id of an upload with this content, or None. Name and size alone prove nothing, since anybody with
        the account's key may have uploaded another file: it must have been sent by this client, or its content must
        match."""
        action = self._action(f"looking for the file {name!r}")
        for row in self._files(action):
            if not uploads.is_upload_usable(row, name, size):
                continue
            file_id = payloads.required(row, "id", action)
            is_own = self._sent.get(file_id) == sha256
            if is_own or self.has_content(file_id, sha256):
                self._sent[file_id] = sha256
                return file_id
        return None

    def _file_marks(self, action: str) -> dict[str, str]:
        """Returns the key mark of the job that each file was sent for, by file id. Empty unless jobs have own
        copies."""
        if not self.provider.sends_copies:
            return {}
        rows = self._files(action)
        return uploads.file_marks(rows)

    def _files(self, action: str) -> Iterator[Json]:
        files = self._client.files.with_raw_response

        def page(after: str | None) -> bytes:
            return files.list(purpose="fine-tune", limit=_PAGE, after=_or_omit(after)).content

        return self._rows(action, page)

    def _send_file(self, path: Path, name: str, sha256: str, action: str) -> str:
        """Uploads a file. Its hash is checked before, so that no other bytes leave this machine, and again during the
        upload, because the file may change meanwhile."""
        try:
            with uploads.file_to_send(path, sha256, bom=self.provider.bom) as (file, wanted):
                uploaded = self._post_file(action, name, file)
        except OSError as error:
            raise TrainerError(f"{action}: the file can't be read: {error.strerror}.") from error
        file_id = payloads.required(uploaded, "id", action)
        # Other bytes than those that were approved are there now, so no job may find them.
        if file.sha256 != wanted:
            self.delete_file(file_id)
            raise FileChanged(path.name)
        self._sent[file_id] = sha256
        return file_id

    def _post_file(self, action: str, name: str, file: HashingFile) -> Json:
        """Sends the bytes. Returns an object with the file's `id`."""
        extra: dict[str, object] | None = None
        if self.provider.can("expires_after"):
            extra = {"expires_after": {"anchor": "created_at", "seconds": UPLOAD_LIFE_S}}
        files = self._client.files.with_raw_response

        def send() -> bytes:
            return files.create(file=(name, file), purpose="fine-tune", extra_body=extra).content

        return payloads.read_object(self._send_once(action, send), action)

    @property
    def _raw_jobs(self) -> JobsWithRawResponse:
        return self._client.fine_tuning.jobs.with_raw_response

    def _change(self, what: str, job_id: str, call: Callable[[str], LegacyAPIResponse[FineTuningJob]]) -> Job:
        """Sends one POST, without retries, and returns the changed job."""
        action = self._action(f"{what} job {job_id!r}")
        content = self._send_once(action, lambda: call(job_id).content)
        return payloads.read_job(content, action)

    def _jobs(self, action: str, filter_by: dict[str, str] | None) -> Iterator[Json]:
        def page(after: str | None) -> bytes:
            return self._raw_jobs.list(
                limit=_PAGE,
                after=_or_omit(after),
                metadata=_or_omit(filter_by or None),
            ).content

        return self._rows(action, page)

    def _rows(self, action: str, page: Callable[[str | None], bytes]) -> Iterator[Json]:
        """Yields every row of every page. Raises InvalidResponse if the list can't be read to its end: a partial list
        must not look like a complete one."""
        after: str | None = None
        seen: set[str] = set()
        while True:
            rows, more = self._get(action, partial(_read_page, page, after, action))
            yield from rows
            # An empty page has no last id to go on from, whatever has_more says.
            if not rows or not more:
                return
            after = payloads.required(rows[-1], "id", action)
            rows_seen = len(seen) * _PAGE
            if after in seen or rows_seen >= _MAX_ROWS:
                raise InvalidResponse(
                    f"{action}: the list repeats itself or has more than {_MAX_ROWS:,} rows, so it was not read."
                )
            seen.add(after)


def _read_page(
    page: Callable[[str | None], bytes], after: str | None, action: str
) -> tuple[tuple[Json, ...], bool]:
    content = page(after)
    return payloads.read_list(content, action)


def _or_omit(value: _T | None) -> _T | openai.Omit:
    import openai

    if value is None:
        return openai.omit
    return value


def _oldest_first(newest_first: list[Job]) -> tuple[Job, ...]:
    """Sorts by creation time. Jobs created in the same second keep their listed order, reversed."""
    jobs = newest_first[::-1]
    jobs.sort(key=lambda job: job.created_at)
    return tuple(jobs)
