"""Uploads to Together over real HTTP: three steps, each of which may be lost, and one file in the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.hosted import COMMIT_THEN_RESET, NOTHING_BUT_500, Fault
from tests.peers.together import Together
from tests.peers.together_uploads import Upload
from tests.trainers.client.test_dialects import KEY, Site, open_site
from trainers.client.dialects import open_trainer
from trainers.client.uploads import upload_name
from trainers.errors import InvalidResponse, Refused, TrainerError, Uncertain

ANNOUNCE = "POST /files"
SEND = "PUT /signed/uploads/file-1"
CHECK = "POST /files/file-1/preprocess"
LOST = Fault(commit=False, status=200, body=b'{"data": []}')


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from open_site("together", tmp_path)


def service_of(site: Site) -> Together:
    assert isinstance(site.service, Together)
    return site.service


def files_of(site: Site) -> list[Upload]:
    return [file for file in site.service.files.values() if isinstance(file, Upload)]


def sha256_of(site: Site) -> str:
    return hashlib.sha256(site.file.read_bytes()).hexdigest()


def upload_by_another_client(site: Site) -> str:
    """As after a restart: nothing is remembered."""
    with open_trainer(site.trainer.provider, site.server.key) as another:
        return another.upload(site.file, sha256_of(site), KEY)


def test_the_address_gets_the_bytes_and_nothing_that_names_us(site: Site) -> None:
    site.upload()
    announced, sent, checked = site.server.requests[-3:]
    assert [announced.route, sent.route, checked.route] == [ANNOUNCE, SEND, CHECK]
    name = upload_name(sha256_of(site), KEY)
    assert announced.body == {"purpose": "fine-tune", "file_name": name, "file_type": "jsonl"}
    assert sent.body == {"content": site.file.read_bytes()} and sent.query == {"signature": "abc/def"}
    named = {"authorization", "content-type", "transfer-encoding", "openai-project", "openai-organization"}
    assert named.isdisjoint(sent.headers) and sent.headers["content-length"]
    assert "authorization" in checked.headers


@pytest.mark.parametrize("route", [ANNOUNCE, SEND, CHECK])
@pytest.mark.parametrize("fault", [COMMIT_THEN_RESET, NOTHING_BUT_500], ids=["done", "not done"])
def test_an_upload_that_was_cut_off_is_found_again_and_ends_as_one_usable_file(
    site: Site, route: str, fault: Fault
) -> None:
    site.server.fail(route, fault)
    with pytest.raises(Uncertain):
        site.upload()
    file_id = upload_by_another_client(site)
    (file,) = files_of(site)
    assert file.id == file_id and file.content == site.file.read_bytes() and file.is_requested
    assert upload_by_another_client(site) == file_id and len(site.service.files) == 1
    bytes_sent = sum(seen.route.startswith("PUT") for seen in site.server.requests)
    was_sent_before = route == CHECK or (route == SEND and fault.commit)
    assert bytes_sent == 1 + (route == SEND and not fault.commit)
    assert (file_id == "file-1") == (was_sent_before or (route == ANNOUNCE and not fault.commit))


def test_a_file_whose_check_fails_to_be_requested_is_replaced(site: Site) -> None:
    site.server.fail(CHECK, NOTHING_BUT_500)
    with pytest.raises(Uncertain):
        site.upload()
    site.server.fail(CHECK, Fault(commit=False, status=400, code="bad_state"))
    assert upload_by_another_client(site) == "file-2"
    assert [file.id for file in files_of(site)] == ["file-2"]


def test_the_check_is_requested_once_by_a_client(site: Site) -> None:
    service_of(site).check_looks = 9
    assert site.upload() == site.upload() == site.upload()
    assert site.server.count(CHECK) == 1


def test_a_file_that_the_vendor_says_it_has_is_used_if_it_is_the_same(site: Site) -> None:
    site.upload()
    service_of(site).knows_names = True
    site.server.fail("GET /files", LOST)
    assert upload_by_another_client(site) == "file-1" and len(files_of(site)) == 1


@pytest.mark.parametrize("content", [b"", b'{"n": "theirs"}\n'])
def test_a_file_that_the_vendor_says_it_has_is_refused_if_it_is_another(site: Site, content: bytes) -> None:
    site.upload()
    service_of(site).knows_names = True
    site.service.files["file-1"].content = content
    site.server.fail("GET /files", LOST)
    with pytest.raises(Refused, match="as file-1, and that is another file"):
        upload_by_another_client(site)
    assert site.server.count(CHECK) == 1


def test_rows_that_the_vendor_finds_invalid_end_the_upload_with_its_reason(site: Site) -> None:
    service_of(site).invalid = "line 3 has no assistant"
    for _ in range(2):
        with pytest.raises(Refused, match="found the rows invalid: line 3 has no assistant"):
            site.upload()
    assert len(files_of(site)) == 1


def test_bytes_follow_the_storages_redirects_complete(site: Site) -> None:
    service_of(site).moves = 2
    site.upload()
    assert files_of(site)[0].content == site.file.read_bytes() and site.server.count(SEND) == 3
    service_of(site).moves = 99
    site.file.write_bytes(site.file.read_bytes() * 2)
    with pytest.raises(InvalidResponse, match="redirects without end"):
        site.upload()


def test_an_expired_address_is_replaced_by_the_next_attempt(site: Site) -> None:
    service_of(site).links_live = False
    with pytest.raises(Uncertain, match="storage refused the rows"):
        site.upload()
    service_of(site).links_live = True
    assert site.upload() == "file-2" and len(files_of(site)) == 1


@pytest.mark.parametrize("address", ["http://storage.example", "ftp://127.0.0.1"])
def test_rows_go_to_no_address_that_is_not_encrypted(site: Site, address: str) -> None:
    site.service.address = address
    with pytest.raises(InvalidResponse, match="missing or not encrypted"):
        site.upload()


def test_an_answer_without_an_address_is_unreadable(site: Site) -> None:
    site.server.fail(ANNOUNCE, Fault(commit=False, status=200, body=b"{}"))
    with pytest.raises(TrainerError, match="names no address"):
        site.upload()
    site.server.fail(ANNOUNCE, Fault(commit=False, status=302, body=b"x", headers=(("Location", "/x"),)))
    with pytest.raises(TrainerError, match="names no id"):
        site.upload()
    assert files_of(site) == []
