"""Langfuse: its SDK sends spans, and its API's types say what an export has.

Arguments: address and key of the model, and the folder to write into. What only the server writes, exports of
observations, is made from the SDK's types, with the names that the API has."""

import csv
import gzip
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from receiver import make_calls, receive

url, key, folder = sys.argv[1:]
address, bodies = receive()
os.environ.update(LANGFUSE_BASE_URL=address, LANGFUSE_PUBLIC_KEY="pk-lf-1", LANGFUSE_SECRET_KEY="sk-lf-1")

from google.protobuf.json_format import MessageToJson  # noqa: E402
from langfuse import get_client  # noqa: E402
from langfuse.api import ObservationsV2Response  # noqa: E402
from langfuse.api.core.serialization import convert_and_respect_annotation_metadata  # noqa: E402
from langfuse.openai import openai  # noqa: E402
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402


def ask(other_key, **parameters):
    client = openai.OpenAI(base_url=url, api_key=other_key or key, max_retries=0)
    with get_client().start_as_current_observation(name="answer_ticket"):
        return client.chat.completions.create(**parameters)


make_calls(ask)
get_client().flush()
with (Path(folder) / "sdk.jsonl").open("w") as file:
    for _, body in bodies:
        request = ExportTraceServiceRequest.FromString(gzip.decompress(body))
        file.write(MessageToJson(request, indent=None) + "\n")

BEGIN = datetime(2026, 11, 3, 9, tzinfo=UTC)


def observation(number, kind, **more):
    begin = BEGIN + timedelta(hours=number)
    end = begin + timedelta(seconds=2)
    times = {"start_time": begin, "end_time": end, "created_at": begin, "updated_at": end}
    return {"id": f"o{number}", "trace_id": f"t{number}", "project_id": "p", "type": kind, **times, **more}


messages = [{"role": "system", "content": "Which team answers?"}, {"role": "user", "content": "Where is it?"}]
answer = {"role": "assistant", "content": "delivery"}
usage = {"input": 40, "input_cached_tokens": 80, "output": 3, "total": 123}
page = ObservationsV2Response.model_validate(
    {
        "data": [
            observation(0, "SPAN", name="answer_ticket"),
            observation(
                1,
                "GENERATION",
                model="gpt-4o",
                input=messages,
                output=answer,
                usage_details=usage,
                level="DEFAULT",
            ),
            observation(
                2, "GENERATION", model="gpt-4o", input=messages, level="ERROR", status_message="Overloaded"
            ),
        ],
        "meta": {},
    }
)
text = page.model_dump_json(exclude_none=True)
named = convert_and_respect_annotation_metadata(
    object_=json.loads(text), annotation=ObservationsV2Response, direction="write"
)
rows = named["data"]
(Path(folder) / "api.json").write_text(json.dumps(named))
(Path(folder) / "ui.json").write_text(json.dumps(rows, indent=2))
(Path(folder) / "ui.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
(Path(folder) / "storage.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in json.loads(text)["data"])
)
with (Path(folder) / "ui.csv").open("w", newline="") as file:
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(file, names)
    writer.writeheader()
    for row in rows:
        cells = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
        writer.writerow(cells)
