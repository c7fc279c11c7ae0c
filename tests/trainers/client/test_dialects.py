"""Vendors with an API of their own, over real HTTP: what is sent, how answers are read, and what they refuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from tests.peers.fireworks import Fireworks
from tests.peers.hosted import BUSY, COMMIT_THEN_RESET, Fault, Hosted, SigningHosted
from tests.peers.together import Together
from tests.peers.vendors import Vendor
from trainers.client import payloads
from trainers.client.client import Trainer
from trainers.client.dialects import fireworks as fireworks_dialect
from trainers.client.dialects import open_trainer
from trainers.client.dialects.dialect import read_metrics
from trainers.errors import FileChanged, InvalidResponse, Refused, TrainerError, Uncertain
from trainers.providers.providers import load_providers
from trainers.types import Job, JobSpec, Message

KEY = "ft-0123456789abcdef01234567"
BASES = {"together": "some/base-8b", "fireworks": "accounts/fireworks/models/base-8b"}


class Site:
    """A vendor's fake server with a client, and a file of rows."""

    def __init__(self, name: str, server: Hosted, trainer: Trainer, file: Path) -> None:
        assert isinstance(server.service, Vendor)
        self.name = name
        self.server = server
        self.trainer = trainer
        self.file = file
        self.service: Vendor = server.service

    def upload(self, key: str = KEY) -> str:
        return self.trainer.upload(self.file, hashlib.sha256(self.file.read_bytes()).hexdigest(), key)

    def spec(self, file_id: str, **changes: object) -> JobSpec:
        chosen = {"n_epochs": 2, "lora_r": 8, "lora_alpha": 16, "learning_rate": 0.0002, "batch_size": 8}
        suffix = "tickets-of-a-very-long-name-indeed"
        spec = JobSpec(KEY, BASES[self.name], file_id, chosen, seed=7, suffix=suffix)
        return replace(spec, **changes)  # type: ignore[arg-type]

    def wait_for(self, job: Job) -> Job:
        for _ in range(20):
            if job.is_final:
                return job
            job = self.trainer.job(job.id)
        raise AssertionError(f"the job never ended: {job}")


def open_site(name: str, folder: Path) -> Iterator[Site]:
    file = folder / "rows.jsonl"
    turns = [{"role": "user", "content": "where is it"}, {"role": "assistant", "content": "shipping"}]
    file.write_text("\n".join(json.dumps({"n": n, "messages": turns}) for n in range(12)) + "\n")
    vendor = Fireworks if name == "fireworks" else Together
    with SigningHosted(vendor(models=(BASES[name],))) as server:
        address = server.url + server.service.path  # type: ignore[attr-defined]
        row = next(row for row in load_providers() if row.name == name).at_address(address)
        chat = f"{server.url.removesuffix('/v1')}/v1/inference/v1" if name == "fireworks" else ""
        provider = replace(row.provider, timeout_s=3, chat_base_url=chat, deploy_base_url="")
        with open_trainer(provider, server.key) as trainer:
            yield Site(name, server, trainer, file)


@pytest.fixture
def together(tmp_path: Path) -> Iterator[Site]:
    yield from open_site("together", tmp_path)


@pytest.fixture
def fireworks(tmp_path: Path) -> Iterator[Site]:
    yield from open_site("fireworks", tmp_path)


@pytest.fixture(params=["together", "fireworks"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    yield from open_site(request.param, tmp_path)


def test_a_jobs_bill_is_the_vendors_own(site: Site) -> None:
    site.service.usd_per_million = Decimal("1234.50")
    job = site.wait_for(site.trainer.create(site.spec(site.upload())))
    assert job.status == "succeeded" and job.trained_tokens == 2 * len(site.file.read_bytes().split())
    assert job.billed_usd is not None
    assert round(job.billed_usd, 2) == site.service.ledger.usd > 0


def test_a_create_whose_answer_was_lost_is_found_and_not_sent_again(site: Site) -> None:
    site.server.fail(site.service.create_route, COMMIT_THEN_RESET)
    spec = site.spec(site.upload())
    with pytest.raises(Uncertain):
        site.trainer.create(spec)
    (job,) = site.trainer.find_jobs(KEY)
    assert site.trainer.jobs_by_key([KEY, "another"], since=0) == {KEY: (job,)}
    assert site.trainer.find_jobs("another") == ()
    assert site.service.ledger.jobs == site.server.count(site.service.create_route) == 1


def test_a_lagging_list_hides_a_job_at_together_but_not_at_fireworks(site: Site) -> None:
    site.service.list_lag_s = 60
    site.trainer.create(site.spec(site.upload()))
    assert len(site.trainer.find_jobs(KEY)) == (site.name == "fireworks")


def test_a_second_create_of_the_same_id_gives_the_job_that_is_there(fireworks: Site) -> None:
    spec = fireworks.spec(fireworks.upload())
    first = fireworks.trainer.create(spec)
    assert fireworks.trainer.create(spec).id == first.id
    assert fireworks.service.ledger.jobs == 1 and fireworks.server.count(fireworks.service.create_route) == 2


WORDS = {
    "fireworks": {
        "JOB_STATE_CREATING_INPUT_DATASET": "validating_files",
        "JOB_STATE_RE_QUEUEING": "queued",
        "JOB_STATE_IDLE": "running",
        "JOB_STATE_PAUSED": "paused",
        "JOB_STATE_EARLY_STOPPED": "succeeded",
        "JOB_STATE_EXPIRED": "failed",
        "JOB_STATE_DELETING_CLEANING_UP": "cancelled",
        "JOB_STATE_HIBERNATING": "HIBERNATING",
    },
    "together": {
        "pending": "queued",
        "compressing": "running",
        "uploading": "running",
        "error": "failed",
        "user_error_pending": "user_error_pending",
    },
}


def test_a_vendors_words_for_a_jobs_state_are_translated_and_unknown_ones_kept(site: Site) -> None:
    job = site.trainer.create(site.spec(site.upload()))
    for word, status in WORDS[site.name].items():
        site.service.stages = (word,)
        looked_up = site.trainer.job(job.id)
        assert looked_up.status == status
        assert looked_up.has_known_status == (status not in ("HIBERNATING", "user_error_pending"))


def test_a_failed_job_has_its_reason(site: Site) -> None:
    site.service.stages, site.service.failure = ("failed",), {"message": "row 3 is too long"}
    job = site.trainer.create(site.spec(site.upload()))
    assert site.trainer.job(job.id).error_message == "row 3 is too long"


def test_a_cancel_takes_a_while_and_is_refused_once_the_job_has_ended(site: Site) -> None:
    site.service.stages = ("running",)
    job = site.trainer.create(site.spec(site.upload()))
    assert site.trainer.cancel(job.id).status == "running"
    assert site.wait_for(job).status == "cancelled"
    with pytest.raises(Refused) as caught:
        site.trainer.cancel(job.id)
    assert caught.value.status == 400 and site.service.ledger.live == 0


def test_a_refused_create_creates_nothing_and_is_sent_once(site: Site) -> None:
    spec, route = site.spec(site.upload()), site.service.create_route
    site.service.credit = False
    with pytest.raises(Refused, match="credit") as refused:
        site.trainer.create(spec)
    assert refused.value.status == 402
    site.service.credit = True
    site.server.fail(route, Fault(commit=False, status=403, code="forbidden"))
    assert site.trainer.probe() is None
    with pytest.raises(Refused, match="has no write access"):
        site.trainer.create(spec)
    site.server.fail(route, BUSY)
    with pytest.raises(Uncertain) as limited:
        site.trainer.create(spec)
    assert limited.value.retry_after == 7
    assert site.server.count(route) == 3 and site.service.ledger.jobs == 0


def test_the_losses_of_each_step_are_read(site: Site) -> None:
    job = site.wait_for(site.trainer.create(site.spec(site.upload())))
    lines = site.trainer.metrics(job)
    assert [line.step for line in lines] == list(range(1, 13))
    assert lines[0].train_loss == 2.0 and lines[-1].valid_loss == pytest.approx(2.5 / 12)


def test_a_tuned_model_is_deleted_with_its_job_or_by_its_name(site: Site) -> None:
    job = site.wait_for(site.trainer.create(site.spec(site.upload())))
    name = str(job.fine_tuned_model)
    assert site.trainer.has_model(name) and site.trainer.has_model(BASES[site.name])
    assert not site.trainer.has_model("none")
    assert site.trainer.chat(name, [Message("user", "hi")], max_tokens=9).text
    if site.trainer.provider.can("job_deletion"):
        site.trainer.delete_job(job.id)
    else:
        site.trainer.delete_model(name)
    assert not site.trainer.has_model(name) and name in site.service.deleted_models


def test_a_missing_or_changed_file_is_an_error_and_leaves_no_bytes_at_the_vendor(site: Site) -> None:
    sha256 = hashlib.sha256(site.file.read_bytes()).hexdigest()
    site.file.write_bytes(site.file.read_bytes() + b"{}\n")
    with pytest.raises(FileChanged):
        site.trainer.upload(site.file, sha256, KEY)
    site.file.unlink()
    with pytest.raises(TrainerError, match="can't be read: No such file"):
        site.trainer.upload(site.file, sha256, KEY)
    assert not any(file.content for file in site.service.files.values())


def test_uploads_are_deleted_by_their_content(site: Site) -> None:
    file_id = site.upload()
    sha256 = hashlib.sha256(site.file.read_bytes()).hexdigest()
    assert site.trainer.has_content(file_id, sha256)
    assert site.trainer.delete_uploads([sha256, "0" * 64]) == 1
    assert site.trainer.delete_uploads([sha256]) == 0 == site.service.ledger.files


def test_a_dataset_is_used_only_after_the_vendor_has_checked_it(fireworks: Site) -> None:
    fireworks.service.check_looks = 2
    with pytest.raises(Uncertain, match="is still checking it") as caught:
        fireworks.upload()
    assert caught.value.retry_after == 5
    fireworks.upload()
    assert sum(request.route.endswith(":upload") for request in fireworks.server.requests) == 1


@pytest.mark.parametrize("checks_itself", [True, False])
def test_an_upload_is_reported_as_complete_unless_the_vendor_notices(
    fireworks: Site, checks_itself: bool
) -> None:
    fireworks.service.checks_itself = checks_itself  # type: ignore[attr-defined]
    fireworks.upload()
    routes = [request.route for request in fireworks.server.requests]
    assert sum(route.endswith(":validateUpload") for route in routes) == (not checks_itself)


def test_an_upload_that_was_cut_off_is_sent_again_by_the_next_client(fireworks: Site) -> None:
    """The record of the dataset is there, its bytes are not."""
    dataset = f"ft-{hashlib.sha256(fireworks.file.read_bytes()).hexdigest()[:40]}"
    fireworks.server.fail(f"POST /accounts/acme/datasets/{dataset}:upload", Fault(commit=False))
    with pytest.raises(Uncertain):
        fireworks.upload()
    assert fireworks.upload() == dataset and fireworks.service.ledger.files == 1


def test_a_dataset_with_our_name_but_other_bytes_is_replaced(fireworks: Site) -> None:
    dataset = fireworks.upload()
    fireworks.service.files[dataset].content = b'{"n": "theirs"}\n' * 12
    with open_trainer(fireworks.trainer.provider, fireworks.server.key) as another:
        sha256 = hashlib.sha256(fireworks.file.read_bytes()).hexdigest()
        assert another.upload(fireworks.file, sha256) == dataset
    assert fireworks.service.files[dataset].content == fireworks.file.read_bytes()


def test_a_signed_link_that_has_expired_is_a_refusal(fireworks: Site) -> None:
    job = fireworks.wait_for(fireworks.trainer.create(fireworks.spec(fireworks.upload())))
    fireworks.service.links_live = False  # type: ignore[attr-defined]
    with pytest.raises(Refused):
        fireworks.trainer.metrics(job)


def test_a_job_without_a_price_has_no_bill(fireworks: Site) -> None:
    fireworks.service.says_cost = False  # type: ignore[attr-defined]
    job = fireworks.wait_for(fireworks.trainer.create(fireworks.spec(fireworks.upload())))
    assert job.billed_usd is None and job.percent == 100


def test_an_endless_list_of_fireworks_is_invalid(fireworks: Site) -> None:
    page = Fault(False, status=200, body=b'{"supervisedFineTuningJobs": [], "nextPageToken": "again"}')
    fireworks.server.fail(fireworks.service.create_route.replace("POST", "GET"), page, times=300)
    with pytest.raises(InvalidResponse, match="does not end"):
        fireworks.trainer.jobs_by_key([KEY], since=0)


def test_a_job_of_together_has_failed_even_if_its_events_cannot_be_read(together: Site) -> None:
    job = together.trainer.create(together.spec(together.upload()))
    together.service.stages = ("failed",)
    events = f"GET /fine-tunes/{job.id}/events"
    together.server.fail(events, Fault(False, status=404))
    assert together.trainer.job(job.id).status == "failed"
    assert together.server.count(events) == 1


def test_hyperparameters_that_fireworks_does_not_know_are_not_sent(fireworks: Site) -> None:
    fireworks.trainer.create(fireworks.spec(fireworks.upload()))
    body = fireworks.server.requests[-1].body
    assert {name: body[name] for name in ("epochs", "loraRank", "learningRate", "batchSizeSamples")} == {
        "epochs": 2, "loraRank": 8, "learningRate": 0.0002, "batchSizeSamples": 8,
    }  # fmt: skip
    assert "lora_alpha" not in body and "loraAlpha" not in body


def test_togethers_suffix_holds_our_mark_in_40_characters(together: Site) -> None:
    job = together.trainer.create(together.spec(together.upload()))
    assert job.suffix is not None and len(job.suffix) == 40
    body = together.server.requests[-1].body
    assert body["training_type"] == {"type": "Lora", "lora_r": 8, "lora_alpha": 16}
    assert body["batch_size"] == "max" and body["random_seed"] == 7
    assert job.hyperparameters["lora_r"] == 8


def test_validation_tokens_are_billed_and_estimated(together: Site) -> None:
    together.service.usd_per_million, together.service.check_looks = Decimal(1000), 1
    file_id = together.upload()
    spec = together.spec(file_id, validation_file=file_id)
    unready = together.trainer.estimate(spec)
    assert unready.usd is None and unready.why == "the file of training rows is still being checked"
    estimated, job = together.trainer.estimate(spec), together.wait_for(together.trainer.create(spec))
    words = len(together.file.read_bytes().split())
    assert estimated.training_tokens == job.trained_tokens == 4 * words
    assert estimated.usd == job.billed_usd
    assert together.service.ledger.usd == round(Decimal(4 * words) / 1000, 2)
    together.service.credit = False
    assert not together.trainer.estimate(spec).is_affordable


def test_a_base_that_the_vendor_does_not_train_is_reported_before_a_job_is_created(site: Site) -> None:
    chosen = {"n_epochs": 2, "lora_r": 8}
    assert site.trainer.describe_exceeded_limit(BASES[site.name], chosen) is None
    assert "can't train a model named none" in str(site.trainer.describe_exceeded_limit("none", chosen))


def test_a_base_whose_adapters_are_not_merged_is_refused_before_a_plan(together: Site) -> None:
    """Its machines take a whole model."""
    assert isinstance(together.service, Together)
    together.service.merges_adapters = False
    refusal = str(together.trainer.describe_exceeded_limit(BASES["together"], {"n_epochs": 2}))
    assert "merges it into no model" in refusal and "Choose another base." in refusal


def test_rows_with_tools_are_refused_on_a_base_without_them(site: Site) -> None:
    base = BASES[site.name]
    assert site.trainer.describe_exceeded_limit(base, {}, has_tools=True) is None
    site.service.supports_tools = False  # type: ignore[attr-defined]
    refusal = str(site.trainer.describe_exceeded_limit(base, {}, has_tools=True))
    assert f"trains {base} without tools, and rows of this file offer or call functions" in refusal
    assert site.trainer.describe_exceeded_limit(base, {}) is None


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"n_epochs": 21}, "n_epochs of at most 20, and the plan has 21. Start again with a smaller value."),
        ({"learning_rate": 1e-9}, "learning_rate of at least 1e-08"),
        ({"batch_size": 4}, "batch_size of at least 8, and the plan has 4. Start again with a larger value."),
        ({"max_length": 9000}, "max_length of at most 8192"),
        (
            {"target_modules": "q_proj,gate_proj"},
            "trains these layers of some/base-8b: q_proj, v_proj, but not gate_proj.",
        ),
        ({"target_modules": "q_proj", "batch_size": "auto", "max_length": 128}, "None"),
    ],
    ids=str,
)
def test_what_is_outside_a_bases_limits_at_together_is_refused_before_a_plan(
    together: Site, chosen: dict[str, int | float | str], sentence: str
) -> None:
    assert sentence in str(together.trainer.describe_exceeded_limit(BASES["together"], chosen))


def test_the_longest_row_and_the_layers_are_sent_under_togethers_names(together: Site) -> None:
    chosen = {"n_epochs": 1, "lora_r": 8, "max_length": 512, "target_modules": "q_proj"}
    job = together.trainer.create(together.spec(together.upload(), hyperparameters=chosen))
    body = together.server.requests[-1].body
    assert body["max_seq_length"] == 512 and body["training_type"]["lora_trainable_modules"] == "q_proj"
    assert job.hyperparameters["max_length"] == 512


def test_events_are_read_with_their_levels(together: Site) -> None:
    together.service.stages, together.service.failure = ("running",), {"message": "out of memory"}
    job = together.trainer.create(together.spec(together.upload()))
    events = together.trainer.events(job.id)
    assert [(event.level, event.message) for event in events] == [
        ("error", "out of memory"),
        ("info", "Job is running"),
        ("info", "Fine tune request created"),
    ]
    assert together.trainer.events_since(job.id, job.created_at + 1, pages=2)[1]


def test_figures_of_another_type_count_as_missing() -> None:
    assert payloads.metric_series({"metrics": [{"metric_name": "ev_loss", "data": -1}]}, "reading") == ()
    assert read_metrics([(float("nan"), {"train/loss": 0.5}), (float("inf"), {"train/loss": 0.5})]) == ()
    assert fireworks_dialect._usd({"currencyCode": "USD", "units": True}) is None
    assert fireworks_dialect._usd({"currencyCode": "USD", "units": "NaN"}) is None
