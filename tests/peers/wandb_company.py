"""Stands in for W&B's servers: the GraphQL and the file storage with which its own package (wandb 0.31) uploads, lists
and deletes artifacts, and the endpoint that serves adapters among them.

Tests check its ledger: which versions of which artifacts exist, which runs, who has asked what, and what it costs.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from trainers.types import Message

KEY = 40 * "k"  # as long as the package insists on
PROJECT = "acme/serving"
ENTITY, _, PROJECT_NAME = PROJECT.partition("/")
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
ARTIFACT = re.compile(rf"wandb-artifact:///{PROJECT}/(?P<name>[^/:]+):v(?P<number>\d+)")
WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")
CREATED = "2026-12-01T10:00:00"
Values = Mapping[str, Any]
Reply = tuple[int, dict[str, Any]]


@dataclass
class Version:
    """One version of an artifact. `manifest` is the package's own, with the files by their names."""

    id: str
    name: str
    number: int
    digest: str
    metadata: dict[str, Any]
    region: str | None
    state: str = "PENDING"
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        return sorted(self.manifest.get("contents", {}))


@dataclass
class Company:
    """Settings may be changed at any time.

    answer      what a model answers
    bases       the bases whose adapters are served
    lost        operations that are carried out, but answered with 500; each as often as it is listed
    refused     the status of the answer to every operation, None if it is carried out
    at          called with the name of each operation before it is carried out
    """

    answer: Callable[[str, Sequence[Message]], str]
    bases: tuple[str, ...] = (LLAMA,)
    lost: list[str] = field(default_factory=list)
    refused: int | None = None
    at: Callable[[str], None] | None = None
    usd_per_million: Decimal = Decimal("0.22")
    versions: list[Version] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    storage: dict[str, bytes] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)
    chats: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    url: str = ""
    _numbers: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def names(self) -> list[str]:
        """The versions that are uploaded completely, like 'ft-run1-abcdef01-1:v0'."""
        return [f"{each.name}:v{each.number}" for each in self.versions if each.state == "COMMITTED"]

    @property
    def bill(self) -> Decimal:
        return self.tokens * self.usd_per_million / 1_000_000

    def carry_out(self, operation: str, values: Values) -> Reply:
        with self._lock:
            self.operations.append(operation)
            if self.refused is not None:
                return self.refused, {"errors": [{"message": "permission denied"}]}
            method = WORD.sub("_", operation).lower()
            carry_out = getattr(self, f"_{method}", None)
            if carry_out is None:
                return 400, {"errors": [{"message": f"There is no operation {operation} here."}]}
            data: dict[str, Any] = carry_out(values)
            if operation in self.lost:
                self.lost.remove(operation)
                return 500, {"error": "internal server error"}
        return 200, {"data": data}

    # Runs.

    def _viewer(self, values: Values) -> dict[str, Any]:
        viewer = {
            "id": _id("User", 1),
            "entity": ENTITY,
            "username": "ana",
            "email": "ana@acme.example",
            "flags": "{}",
            "teams": {"edges": [{"node": {"name": ENTITY}}]},
        }
        return {"viewer": viewer}

    _get_default_entity = _viewer

    def _run_resume_status(self, values: Values) -> dict[str, Any]:
        bucket = None
        if values["name"] in self.runs:
            bucket = {
                **_bucket(values["name"]),
                "summaryMetrics": "{}",
                "logLineCount": 0,
                "historyLineCount": 0,
                "eventsLineCount": 0,
                "historyTail": "[]",
                "eventsTail": "[]",
                "config": "{}",
                "tags": [],
                "notes": None,
                "wandbConfig": "{}",
            }
        return {"model": {**_project(), "bucket": bucket}}

    def _upsert_bucket(self, values: Values) -> dict[str, Any]:
        name = values["name"]
        is_new = name not in self.runs
        if is_new:
            self.runs.append(name)
        return {"upsertBucket": {"bucket": _bucket(name), "inserted": is_new}}

    def _create_run_files(self, values: Values) -> dict[str, Any]:
        files = []
        for name in values["files"]:
            files.append({"name": name, "uploadUrl": f"{self.url}/storage/run/{values['run']}/{name}"})
        return {"createRunFiles": {"runID": values["run"], "uploadHeaders": [], "files": files}}

    def _runs(self, values: Values) -> dict[str, Any]:
        wanted = json.loads(values.get("filters") or "{}").get("name")
        edges = []
        for name in self.runs:
            if wanted in (None, name):
                edges.append({"node": _listed_run(name), "cursor": name})
        runs = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        project = {**_project(), "internalId": "1", "readOnly": False, "runCount": len(edges), "runs": runs}
        return {"project": project}

    def _delete_run(self, values: Values) -> dict[str, Any]:
        name = _number_of(values["id"])
        self.runs.remove(name)
        return {"deleteRun": {"clientMutationId": None}}

    # Artifacts.

    def _artifact_type(self, values: Values) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _server_features_query(self, values: Values) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _create_artifact(self, values: Values) -> dict[str, Any]:
        """Like the company, makes no second version of the same content."""
        wanted = values["input"]
        name = wanted["artifactCollectionName"]
        same = [each for each in self.versions if (each.name, each.digest) == (name, wanted["digest"])]
        if same:
            version = same[0]
        else:
            self._numbers += 1
            number = len([each for each in self.versions if each.name == name])
            metadata = json.loads(wanted.get("metadata") or "{}")
            region = wanted.get("storageRegion")
            version = Version(
                _id("Artifact", self._numbers), name, number, wanted["digest"], metadata, region
            )
            self.versions.append(version)
        latest = None
        committed = [each for each in self.versions if each.name == name and each.state == "COMMITTED"]
        if committed:
            latest = {"id": committed[-1].id, "versionIndex": committed[-1].number}
        artifact = {
            "id": version.id,
            "state": version.state,
            "artifactSequence": {"id": _id("Sequence", name), "latestArtifact": latest},
        }
        return {"createArtifact": {"artifact": artifact}}

    def _create_artifact_files(self, values: Values) -> dict[str, Any]:
        edges = []
        for wanted in values["input"]["artifactFiles"]:
            path = f"{wanted['artifactID']}/{wanted['name']}"
            node = {
                "id": _id("File", path),
                "name": wanted["name"],
                "displayName": wanted["name"],
                "storagePath": f"artifact/{path}",
                "uploadUrl": f"{self.url}/storage/{path}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": wanted["artifactID"]},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _create_artifact_manifest(self, values: Values) -> dict[str, Any]:
        return {"createArtifactManifest": self._manifest(_id("Manifest", values["artifactID"]))}

    def _update_artifact_manifest(self, values: Values) -> dict[str, Any]:
        return {"updateArtifactManifest": self._manifest(values["artifactManifestID"])}

    def _manifest(self, number: str) -> dict[str, Any]:
        file = {"id": number, "uploadUrl": f"{self.url}/storage/{number}", "uploadHeaders": []}
        return {"artifactManifest": {"id": number, "file": file}}

    def _commit_artifact(self, values: Values) -> dict[str, Any]:
        version = self._version(values["artifactID"])
        version.state = "COMMITTED"
        version.manifest = json.loads(self.storage[_id("Manifest", version.id)])
        return {"commitArtifact": {"artifact": {"id": version.id, "digest": version.digest}}}

    def _artifact_by_id(self, values: Values) -> dict[str, Any]:
        return {"artifact": _artifact(self._version(values["id"]))}

    def _artifact_type_artifact_collections(self, values: Values) -> dict[str, Any]:
        names = dict.fromkeys(each.name for each in self.versions)
        edges = [{"node": _collection(name)} for name in names]
        listed = {"totalCount": len(edges), "pageInfo": _page(), "edges": edges}
        return {"project": {"artifactType": {"artifactCollections": listed}}}

    def _project_artifacts(self, values: Values) -> dict[str, Any]:
        edges = []
        for version in self.versions:
            # The package can't read any other: the company lists no drafts.
            if version.name == values["collection"] and version.state == "COMMITTED":
                edges.append({"version": f"v{version.number}", "node": _artifact(version)})
        artifacts = {"totalCount": len(edges), "pageInfo": _page(), "edges": edges}
        collection = {"__typename": "ArtifactSequence", "artifacts": artifacts}
        return {"project": {"artifactType": {"artifactCollection": collection}}}

    def _delete_artifact(self, values: Values) -> dict[str, Any]:
        number = values["input"]["artifactID"]
        self._version(number).state = "DELETED"
        return {"result": {"artifact": {"id": number}}}

    def _delete_artifact_sequence(self, values: Values) -> dict[str, Any]:
        name = _number_of(values["id"])
        self.versions = [each for each in self.versions if each.name != name]
        return {"result": {"artifactCollection": {"__typename": "ArtifactSequence", "state": "DELETED"}}}

    def _version(self, number: str) -> Version:
        return next(each for each in self.versions if each.id == number)

    # Inference.

    def chat(self, headers: Mapping[str, str], body: dict[str, Any]) -> Reply:
        with self._lock:
            self.chats.append({"project": headers.get("OpenAI-Project"), **body})
            if headers.get("Authorization") != f"Bearer {KEY}" or headers.get("OpenAI-Project") != PROJECT:
                return _error(401, "Invalid authentication")
            model = str(body["model"])
            served = self._served(model)
            if served is None:
                return _error(404, f"The model {model} does not exist.")
            messages = [Message(each["role"], each["content"]) for each in body["messages"]]
            text = self.answer(served, messages)
            usage = _usage(messages, text)
            self.tokens += usage["total_tokens"]
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return 200, {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [choice],
            "usage": usage,
        }

    def _served(self, model: str) -> str | None:
        """Returns the base of what is wanted, with 'tuned ' before it if it is an adapter; None if nothing is served
        under this name."""
        if model in self.bases:
            return model
        match = ARTIFACT.fullmatch(model)
        if match is None:
            return None
        for version in self.versions:
            is_meant = (version.name, version.number) == (match["name"], int(match["number"]))
            base = version.metadata.get("wandb.base_model")
            is_here = version.region == "coreweave-us" and "adapter_model.safetensors" in version.files
            if is_meant and version.state == "COMMITTED" and is_here and base in self.bases:
                return f"tuned {base}"
        return None


@contextmanager
def serve(company: Company) -> Iterator[Company]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.company = company
    company.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield company
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    company: Company

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the package drops connections when it ends


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def company(self) -> Company:
        assert isinstance(self.server, _Server)
        return self.server.company

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        content = self._content()
        if path == "/graphql":
            wanted = json.loads(content)
            if self.headers.get("Authorization") != f"Basic {_credentials()}":
                return self._answer(401, {"errors": [{"message": "user is not logged in"}]})
            operation = _operation(wanted)
            if self.company.at is not None:
                self.company.at(operation)
            return self._answer(*self.company.carry_out(operation, wanted.get("variables") or {}))
        if path == "/v1/chat/completions":
            return self._answer(*self.company.chat(self.headers, json.loads(content)))
        return self._answer(200, {})  # a run's log, and what the package reports of itself

    def do_PUT(self) -> None:
        place = urlsplit(self.path).path.removeprefix("/storage/")
        self.company.storage[place] = self._content()
        self._answer(200, {})

    def do_GET(self) -> None:
        rows = [{"id": base, "object": "model", "created": 1, "owned_by": "x"} for base in self.company.bases]
        self._answer(200, {"object": "list", "data": rows})

    def _content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: object) -> None:
        pass


def _operation(wanted: Values) -> str:
    named = wanted.get("operationName")
    if named:
        return str(named)
    match = re.search(r"(?:query|mutation) (\w+)", wanted["query"])
    assert match is not None, wanted["query"]
    return match[1]


def _credentials() -> str:
    return base64.b64encode(f"api:{KEY}".encode()).decode()


def _id(kind: str, number: object) -> str:
    return base64.urlsafe_b64encode(f"{kind}:{number}".encode()).decode().rstrip("=")


def _number_of(number: str) -> str:
    padded = number + "=" * (-len(number) % 4)
    return base64.urlsafe_b64decode(padded).decode().partition(":")[2]


def _project() -> dict[str, Any]:
    return {
        "id": _id("Project", 1),
        "name": PROJECT_NAME,
        "entity": {"id": _id("Entity", 1), "name": ENTITY},
    }


def _bucket(name: str) -> dict[str, Any]:
    return {
        "id": _id("Run", name),
        "name": name,
        "displayName": name,
        "description": None,
        "config": "{}",
        "sweepName": None,
        "project": _project(),
        "historyLineCount": 0,
    }


def _listed_run(name: str) -> dict[str, Any]:
    return {
        **_bucket(name),
        "tags": [],
        "state": "finished",
        "group": None,
        "jobType": "upload",
        "commit": None,
        "readOnly": False,
        "createdAt": CREATED,
        "heartbeatAt": CREATED,
        "notes": None,
        "systemMetrics": "{}",
        "summaryMetrics": "{}",
        "user": {"name": "ana", "username": "ana"},
        "historyKeys": None,
        "projectId": "1",
    }


def _collection(name: str) -> dict[str, Any]:
    return {
        "__typename": "ArtifactSequence",
        "id": _id("Sequence", name),
        "name": name,
        "description": None,
        "createdAt": CREATED,
        "updatedAt": CREATED,
        "project": {**_project(), "internalId": _id("ProjectInternalId", 1)},
        "type": {"name": "lora"},
        "tags": {"edges": []},
    }


def _artifact(version: Version) -> dict[str, Any]:
    project = {**_project(), "internalId": _id("ProjectInternalId", 1)}
    of = {"__typename": "ArtifactSequence", "name": version.name, "project": project}
    return {
        "__typename": "Artifact",
        "id": version.id,
        "artifactSequence": of,
        "versionIndex": version.number,
        "artifactType": {"name": "lora"},
        "description": None,
        "metadata": json.dumps(version.metadata),
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": version.state,
        "size": 1,
        "digest": version.digest,
        "digestAlgorithm": "MANIFEST_MD5",
        "commitHash": "c0ffee",
        "fileCount": len(version.files),
        "createdAt": CREATED,
        "updatedAt": None,
        "aliases": [
            {
                "__typename": "ArtifactAlias",
                "id": _id("Alias", version.id),
                "alias": "latest",
                "artifactCollection": of,
            }
        ],
    }


def _page() -> dict[str, Any]:
    return {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}


def _usage(messages: Sequence[Message], text: str) -> dict[str, int]:
    wanted = sum(len(message.content.split()) + 4 for message in messages)
    written = len(text.split()) + 1
    return {"prompt_tokens": wanted, "completion_tokens": written, "total_tokens": wanted + written}


def _error(status: int, text: str) -> Reply:
    return status, {"error": {"message": text, "code": status}}
