"""LiteLLM: its own loggers send payloads to an HTTP address and to S3.

Arguments: address and key of the model, and the folder to write what arrives into."""

import asyncio
import sys
from pathlib import Path

import litellm
from litellm.integrations.generic_api.generic_api_callback import GenericAPILogger
from litellm.integrations.s3_v2 import S3Logger
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from receiver import make_calls, receive

url, key, folder = sys.argv[1:]
address, bodies = receive()
litellm.telemetry = False
litellm.s3_callback_params = {
    "s3_bucket_name": "logs",
    "s3_region_name": "us-east-1",
    "s3_endpoint_url": f"{address}/s3",
    "s3_aws_access_key_id": "id",
    "s3_aws_secret_access_key": "key",
}


async def main() -> None:
    loggers = [GenericAPILogger(endpoint=f"{address}/log", headers={}, log_format="ndjson"), S3Logger()]
    litellm.callbacks = loggers
    calls = []
    make_calls(lambda other_key, **parameters: calls.append((other_key or key, parameters)))
    for each, parameters in calls:
        parameters["model"] = f"openai/{parameters['model']}"
        try:
            await litellm.acompletion(api_base=url, api_key=each, num_retries=0, max_retries=0, **parameters)
        except litellm.AuthenticationError:
            assert each != key
    # Failures are logged by a task of their own, which nothing waits for, and loggers also send by themselves.
    while arrived() < len(loggers) * len(calls):
        await GLOBAL_LOGGING_WORKER.flush()
        for logger in loggers:
            await logger.flush_queue()
        await asyncio.sleep(0.05)


def arrived() -> int:
    """Returns how many payloads have arrived. Each is a line."""
    return sum(len(body.splitlines()) for _, body in bodies)


asyncio.run(main())
for number, (path, body) in enumerate(bodies):
    name = f"s3-{number}.json" if path.startswith("/s3") else "http.jsonl"
    with (Path(folder) / name).open("ab") as file:
        file.write(body + b"\n")
