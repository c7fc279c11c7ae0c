"""The client and a server that misbehaves: which fault raises which error, and no POST is sent twice."""

from __future__ import annotations

import json
import re
import ssl
import time
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.peers import hosted as peer
from tests.peers.hosted import Fault, Hosted
from tests.peers.service import Service
from tests.trainers.client.conftest import MODEL, digest, provider, spec
from trainers.client import uploads
from trainers.client.calls import ProviderCall
from trainers.client.client import Trainer
from trainers.client.payloads import accepted_hyperparameters, job_body, suffix_of
from trainers.client.uploads import key_mark
from trainers.errors import FileChanged, InvalidResponse, Refused, TrainerError, Uncertain
from trainers.providers.providers import load_providers
from trainers.types import JobSpec, Message

CREATE = "POST /fine_tuning/jobs"
LIST = "GET /fine_tuning/jobs"


def name_fault(value: object) -> str | None:
    if not isinstance(value, Fault):
        return None
    end = value.then if value.then != "answer" else f"{value.status} {(value.body or b'')[:15]!r}"
    return f"{'commit then ' if value.commit else ''}{end}"


@contextmanager
def open_nebius(**options: bool) -> Iterator[tuple[Hosted, Trainer]]:
    """Opens a trainer without metadata, which knows our jobs by a mark in the suffix."""
    with Hosted(Service("nebius", models=[MODEL], **options)) as nebius:  # type: ignore[arg-type]
        row = next(row for row in load_providers() if row.name == "nebius").at_address(nebius.url)
        with Trainer(row.provider, nebius.key) as trainer:
            yield nebius, trainer


@pytest.mark.deep
@pytest.mark.parametrize(
    ("fault", "error", "created"),
    [
        (peer.NOT_AVAILABLE, Refused, 0),
        (Fault(commit=False, status=400), Refused, 0),
        (Fault(commit=False, status=404), Refused, 0),
        (Fault(commit=False, status=422), Refused, 0),
        (Fault(commit=False, status=501), Refused, 0),
        (Fault(commit=True, status=408), Uncertain, 1),
        (Fault(commit=True, status=409), Uncertain, 1),
        (peer.BUSY, Uncertain, 0),
        (peer.NOTHING_BUT_500, Uncertain, 0),
        (peer.COMMIT_THEN_500, Uncertain, 1),
        (Fault(commit=True, status=502, body=peer.PAGE), Uncertain, 1),
        (Fault(commit=False, status=503, headers=(("x-should-retry", "true"),)), Uncertain, 0),
        (peer.HANG, Uncertain, 0),
        (peer.COMMIT_THEN_HANG, Uncertain, 1),
        (peer.RESET, Uncertain, 0),
        (peer.COMMIT_THEN_RESET, Uncertain, 1),
        (peer.COMMIT_THEN_CUT, Uncertain, 1),
        (peer.HTML, InvalidResponse, 0),
        (peer.COMMIT_THEN_HTML, InvalidResponse, 1),
        (Fault(commit=True, status=200, body=b"{}"), InvalidResponse, 1),
        (Fault(commit=True, status=200, body=b'{"id": "ftjob-1"}'), InvalidResponse, 1),
        (Fault(commit=True, status=200, body=b"[1]"), InvalidResponse, 1),
        (Fault(commit=True, status=200, body=b"\xff\xfe"), InvalidResponse, 1),
        (Fault(commit=False, status=302, headers=(("Location", "/v1/models"),)), InvalidResponse, 0),
        (Fault(False, status=307, headers=(("Location", "/v1/fine_tuning/jobs"),)), InvalidResponse, 0),
    ],
    ids=name_fault,
)
def test_a_fault_of_create_has_its_error_and_only_one_post(
    server: Hosted, trainer: Trainer, data: Path, fault: Fault, error: type[TrainerError], created: int
) -> None:
    job_spec = spec(trainer, data)
    server.fail(CREATE, fault)
    with pytest.raises(error) as caught:
        trainer.create(job_spec)
    assert type(caught.value) is error
    assert str(caught.value).startswith("creating the job for 'tickets' on openai: ")
    assert server.count(CREATE) == 1
    assert len(server.service.jobs) == created
    assert len(trainer.find_jobs("run-1")) == created


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(commit=False, status=404), None),
        (Fault(commit=False, status=403), "refused"),
        (peer.BUSY, "rate_limit"),
        (Fault(commit=False, status=503, headers=(("Retry-After", "9"),)), "server"),
        (peer.HANG, "timeout"),
        (Fault(commit=False, status=302, headers=(("Location", "/v1/models"),)), "unreadable"),
    ],
    ids=name_fault,
)
def test_each_request_is_observed_with_its_kind_of_error(
    server: Hosted, trainer: Trainer, fault: Fault, kind: str | None
) -> None:
    calls: list[ProviderCall] = []
    trainer.observe = calls.append
    server.fail("GET /models", fault)
    with pytest.raises(TrainerError):
        trainer.models()
    assert [(call.provider, call.error_kind) for call in calls] == [("openai", kind)]
    assert calls[0].seconds > 0


def test_a_page_instead_of_an_answer_is_observed_as_unreadable(server: Hosted, trainer: Trainer) -> None:
    calls: list[ProviderCall] = []
    trainer.observe = calls.append
    server.fail("POST /chat/completions", peer.HTML)
    with pytest.raises(InvalidResponse):
        trainer.chat(MODEL, [Message("user", "hi")], max_tokens=5)
    assert [call.error_kind for call in calls] == ["unreadable"]


def test_a_refusal_of_all_training_suggests_the_local_trainer(
    server: Hosted, trainer: Trainer, data: Path
) -> None:
    job_spec = spec(trainer, data)
    server.fail(CREATE, peer.NOT_AVAILABLE)
    with pytest.raises(Refused, match="local/") as caught:
        trainer.create(job_spec)
    assert caught.value.is_training_unavailable
    trainer.delete_file(job_spec.training_file)
    assert server.service.files == {}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("86400000", 3600),
        ("inf", 3600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
    ],
)
def test_retry_after_is_passed_on_as_seconds_up_to_an_hour(
    server: Hosted, trainer: Trainer, header: str, seconds: int
) -> None:
    server.fail("GET /models", Fault(False, status=429, headers=(("Retry-After", header),)))
    with pytest.raises(Uncertain, match=f"in {seconds} s") as caught:
        trainer.models()
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("header", ["0", "-5", "nan", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_that_is_over_counts_as_none(server: Hosted, trainer: Trainer, header: str) -> None:
    server.fail("GET /models", Fault(False, status=429, headers=(("Retry-After", header),)))
    with pytest.raises(Uncertain, match="again later") as caught:
        trainer.models()
    assert caught.value.retry_after is None


def test_a_key_repeated_in_a_refusal_is_not_passed_on(server: Hosted, trainer: Trainer) -> None:
    body = json.dumps({"error": {"message": f"Incorrect API key: {server.key}."}}).encode()
    server.fail("GET /models", Fault(False, status=401, body=body))
    with pytest.raises(Refused, match=r"Incorrect API key: \(the key\)") as caught:
        trainer.models()
    assert server.key not in str(caught.value)


def test_an_unreachable_trainer_is_named_with_what_to_do(server: Hosted) -> None:
    closed = provider(server)
    server.__exit__(None, None, None)
    with (
        Trainer(closed, "sk-x") as trainer,
        pytest.raises(Uncertain, match="connection refused; is the trainer"),
    ):
        trainer.models()


def test_a_refused_key_is_reported_by_its_variable(server: Hosted) -> None:
    with Trainer(provider(server), "sk-wrong") as trainer:
        refusal = trainer.probe()
    assert refusal is not None
    assert refusal.status == 401
    assert "OPENAI_API_KEY" in str(refusal)
    assert "sk-wrong" not in str(refusal)


def test_a_key_with_a_line_break_is_refused_without_repeating_it(server: Hosted) -> None:
    with pytest.raises(TrainerError, match="OPENAI_API_KEY") as caught:
        Trainer(provider(server), "sk-sec\nret")
    assert "sec" not in str(caught.value)


def test_probe_returns_none_if_nothing_is_wrong(trainer: Trainer) -> None:
    assert trainer.probe() is None


def test_a_get_is_repeated_after_an_error(server: Hosted, trainer: Trainer) -> None:
    server.fail("GET /models", peer.NOTHING_BUT_500)
    assert MODEL in [model.id for model in trainer.models()]
    assert server.count("GET /models") == 2


@pytest.mark.parametrize(
    ("fault", "requests"),
    [(peer.RESET, 3), (peer.BUSY, 1), (peer.WAIT_503, 1), (peer.HANG, 1), (peer.HTML, 1)],
)
def test_a_get_gives_up(server: Hosted, trainer: Trainer, fault: Fault, requests: int) -> None:
    server.fail("GET /models", fault, times=5)
    with pytest.raises((Uncertain, InvalidResponse)):
        trainer.models()
    assert server.count("GET /models") == requests


@pytest.mark.parametrize("fault", [peer.COMMIT_THEN_500, peer.COMMIT_THEN_HANG, peer.COMMIT_THEN_CUT])
def test_an_upload_that_ended_unclearly_is_found_again(
    server: Hosted, trainer: Trainer, data: Path, fault: Fault
) -> None:
    server.fail("POST /files", fault)
    with pytest.raises(Uncertain):
        trainer.upload(data, digest(data))
    assert trainer.upload(data, digest(data)) == "file-1"
    assert server.count("POST /files") == 1


def test_a_file_cut_short_or_about_to_expire_is_sent_again(
    server: Hosted, trainer: Trainer, data: Path
) -> None:
    first = trainer.upload(data, digest(data))
    server.service.files[first].content = b"{}"
    second = trainer.upload(data, digest(data))
    server.service.files[second].expires = int(time.time()) + 3600
    assert len({first, second, trainer.upload(data, digest(data))}) == 3


def test_an_uploaded_file_expires_after_30_days(server: Hosted, trainer: Trainer, data: Path) -> None:
    expires = server.service.files[trainer.upload(data, digest(data))].expires
    assert expires is not None
    assert expires == pytest.approx(time.time() + 30 * 24 * 3600, abs=60)


def test_a_missing_file_is_named(trainer: Trainer, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"uploading 'gone.jsonl' on openai: the file can't be read"):
        trainer.upload(tmp_path / "gone.jsonl", "0" * 64)


def test_create_sends_key_seed_and_method(server: Hosted, trainer: Trainer, data: Path) -> None:
    trainer.create(spec(trainer, data))
    sent = server.requests[-1]
    assert sent.headers["idempotency-key"] == "run-1"
    assert sent.body == {
        "model": MODEL,
        "training_file": "file-1",
        "seed": 7,
        "suffix": "tickets",
        "metadata": {"run": "1", "finetune_key": "run-1"},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    }


def test_hyperparameters_that_a_trainer_does_not_accept_are_left_out(server: Hosted) -> None:
    chosen = {"n_epochs": 2, "lora_r": 16}
    openai = provider(server)
    assert accepted_hyperparameters(openai, chosen) == {"n_epochs": 2}
    accepting = replace(openai, abilities=openai.abilities | {"extra_hyperparameters"})
    assert accepted_hyperparameters(accepting, chosen) == chosen


def test_a_job_without_metadata_is_known_by_the_mark_in_its_suffix(data: Path) -> None:
    with open_nebius() as (nebius, trainer):
        job = trainer.create(replace(spec(trainer, data, "run-1"), suffix="s" * 64))
        trainer.create(spec(trainer, data, "run-2"))
        assert [match.id for match in trainer.find_jobs("run-1")] == [job.id]
        assert trainer.find_jobs("run-3") == ()
        jobs = trainer.jobs_by_key(["run-1", "run-3"], 0)
    assert {key: [match.id for match in listed] for key, listed in jobs.items()} == {"run-1": [job.id]}
    assert nebius.requests[-1].query.get("metadata[finetune_key]") is None
    assert len(nebius.service.jobs[job.id].request["suffix"]) == 64


def test_a_trainer_without_a_key_variable_needs_no_key(server: Hosted) -> None:
    with Trainer(replace(provider(server), key_env=None), "") as trainer:
        assert trainer.probe() is not None  # this one does want a key, and says so


def test_jobs_are_compared_on_our_side_too(server: Hosted, trainer: Trainer, data: Path) -> None:
    server.service.ignores_metadata_filter = True
    ours = trainer.create(spec(trainer, data, "run-1"))
    trainer.create(spec(trainer, data, "run-2"))
    assert [job.id for job in trainer.find_jobs("run-1")] == [ours.id]
    assert server.requests[-1].query["metadata[finetune_key]"] == "run-1"
    assert set(trainer.jobs_by_key((), 0)) == {"run-1", "run-2"}


def test_a_job_without_a_creation_time_hides_no_other(server: Hosted, trainer: Trainer, data: Path) -> None:
    trainer.create(spec(trainer, data, "run-1"))
    server.service.jobs[trainer.create(spec(trainer, data, "run-2")).id].created = 0
    assert set(trainer.jobs_by_key((), 1_000)) == {"run-1", "run-2"}


def test_a_job_whose_suffix_does_not_come_back_is_known_by_its_file(data: Path) -> None:
    with open_nebius(echoes_suffix=False) as (_, trainer):
        files = [trainer.upload(data, digest(data), key) for key in ("run-1", "run-2", "run-1")]
        first, second = (
            trainer.create(replace(spec(trainer, data, key), training_file=file)).id
            for key, file in zip(("run-1", "run-2"), files, strict=False)
        )
        by_search = [[job.id for job in trainer.find_jobs(key)] for key in ("run-1", "run-2", "run-3")]
        by_sweep = [[job.id for job in jobs] for jobs in trainer.jobs_by_key(["run-1", "run-2"], 0).values()]
        # both copies, and the one for no job in particular
        assert trainer.delete_uploads([digest(data)]) == 3
    assert files[0] == files[2] != files[1]
    assert by_search == [[first], [second], []]
    assert by_sweep == [[second], [first]]


def test_a_suffix_fits_what_the_trainer_takes(server: Hosted) -> None:
    short = replace(
        provider(server), abilities=frozenset({"suffix"}), suffix_length=40, suffix_characters="-"
    )
    job = JobSpec("run-1", MODEL, "file-1", {}, seed=7, suffix="tickets.v2 " * 9)
    suffix = str(job_body(short, job)["suffix"])
    assert len(suffix) == 40
    assert re.fullmatch(r"tickets-v2-tickets-v2-t-[0-9a-f]{16}", suffix)
    assert suffix.endswith(key_mark("run-1"))


@pytest.mark.parametrize(
    "row",
    [
        {"user_provided_suffix": "tickets", "suffix": None},
        {"suffix": "tickets"},
        {"fine_tuned_model": "ft:gpt-4o-mini-2024-07-18:org:tickets:a1"},
    ],
)
def test_a_suffix_is_read_from_any_of_its_fields(row: dict[str, str]) -> None:
    assert suffix_of(row) == "tickets"


def test_an_added_byte_order_mark_is_not_a_change_of_the_file(server: Hosted, data: Path) -> None:
    with Trainer(replace(provider(server), bom=True), server.key) as trainer:
        file_id = trainer.upload(data, digest(data))
        assert server.service.files[file_id].content == BOM_UTF8 + data.read_bytes()
    with Trainer(replace(provider(server), bom=True), server.key) as another:
        assert another.upload(data, digest(data)) == file_id
        data.write_text("{}", encoding="utf-8")
        with pytest.raises(FileChanged):
            another.upload(data, "0" * 64)


def test_a_sweep_looks_back_only_as_far_as_requested(server: Hosted, trainer: Trainer, data: Path) -> None:
    old, new = (trainer.create(spec(trainer, data, key)) for key in ("run-1", "run-2"))
    server.service.jobs[old.id].created -= 5_000
    assert list(trainer.jobs_by_key((), new.created_at - 1_000)) == ["run-2"]


def test_duplicates_come_oldest_first_from_every_page(server: Hosted, trainer: Trainer, data: Path) -> None:
    server.service.ignores_metadata_filter = True
    twice = spec(trainer, data, "twice")
    first, second = trainer.create(twice), trainer.create(twice)
    for number in range(100):
        trainer.create(replace(twice, key=f"other-{number}"))
    assert [job.id for job in trainer.find_jobs("twice")] == [first.id, second.id]
    assert server.count(LIST) == 2


def test_a_list_that_never_ends_is_invalid_and_not_empty(server: Hosted, trainer: Trainer) -> None:
    page = b'{"object": "list", "data": [{"id": "a", "status": "running"}], "has_more": true}'
    server.fail(LIST, Fault(commit=False, status=200, body=page), times=5)
    with pytest.raises(InvalidResponse, match="repeats itself"):
        trainer.find_jobs("run-1")


def test_listed_jobs_without_a_creation_time_are_found(server: Hosted, trainer: Trainer) -> None:
    jobs = b'[{"id": "a", "status": "running"}, {"id": "b", "status": "running"}]'
    page = b'{"data": ' + jobs + b', "has_more": false}'
    server.fail(LIST, Fault(commit=False, status=200, body=page))
    assert trainer.newest_jobs({"b"}, since=1_000.0, pages=1).keys() == {"b"}


def test_a_job_may_lag_behind_in_the_list(server: Hosted, trainer: Trainer, data: Path) -> None:
    server.service.list_lag_s = 60
    created = trainer.create(spec(trainer, data))
    assert trainer.find_jobs("run-1") == ()
    assert trainer.job(created.id).id == created.id


def test_cancelling_a_finished_job_is_refused(server: Hosted, trainer: Trainer, data: Path) -> None:
    server.service.stages = ("succeeded",)
    job = trainer.create(spec(trainer, data))
    with pytest.raises(Refused, match="cancelling job 'ftjob-1' on openai"):
        trainer.cancel(job.id)


def test_deleting_a_file_twice_is_not_an_error(trainer: Trainer, data: Path) -> None:
    file_id = trainer.upload(data, digest(data))
    trainer.delete_file(file_id)
    trainer.delete_file(file_id)


def test_a_proxy_from_the_environment_is_not_used_for_loopback(
    server: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Trainer(provider(server), server.key) as trainer:
        assert trainer.probe() is None


@pytest.mark.parametrize(
    ("url", "is_verified"),
    [
        ("http://127.0.0.1:1/v1", False),
        ("https://127.0.0.1:1/v1", True),
        ("http://trainer.example/v1", True),
        ("https://trainer.example/v1", True),
    ],
)
def test_certificates_are_verified_wherever_there_may_be_any(
    server: Hosted, url: str, is_verified: bool
) -> None:
    row = replace(provider(server), base_url=url)
    with Trainer(row, server.key) as trainer:
        transport: Any = trainer._client._client._transport
        context: ssl.SSLContext = transport._pool._ssl_context
    assert (context.verify_mode is ssl.CERT_REQUIRED) is is_verified


def test_a_file_that_changes_while_it_is_sent_is_deleted_again(
    server: Hosted, trainer: Trainer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_sha256 = uploads.check_sha256

    def check_and_change(path: Path, sha256: str) -> None:
        check_sha256(path, sha256)
        path.write_bytes(path.read_bytes()[::-1])

    monkeypatch.setattr(uploads, "check_sha256", check_and_change)
    with pytest.raises(FileChanged):
        trainer.upload(data, digest(data))
    assert server.service.files == {} and server.count("POST /files") == 1


def test_a_found_file_whose_content_cannot_be_read_is_sent_again(
    server: Hosted, trainer: Trainer, data: Path
) -> None:
    first = trainer.upload(data, digest(data))
    server.fail(f"GET /files/{first}/content", Fault(commit=False, status=403, code="forbidden"), times=9)
    with Trainer(trainer.provider, server.key) as another:
        assert another.upload(data, digest(data)) != first
