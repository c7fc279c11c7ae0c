"""OpenTelemetry: an instrumentation of openai writes spans, the JSON exporters and the SDK's printer export them.

Arguments: address and key of the model, the instrumentation, the folder to write into, and where to send spans."""

import sys
from importlib import import_module
from pathlib import Path

import openai
from opentelemetry import trace
from opentelemetry.exporter.otlp.json.file.trace_exporter import FileSpanExporter
from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from receiver import make_calls

INSTRUMENTATIONS = {
    "openai_v2": "opentelemetry.instrumentation.openai_v2",
    "openllmetry": "opentelemetry.instrumentation.openai",
    "openinference": "openinference.instrumentation.openai",
}
url, key, name, folder, *collector = sys.argv[1:]
provider = TracerProvider(resource=Resource.create({"finetune.dataset": "tickets"}))
with (Path(folder) / "printed.txt").open("w") as printed:
    provider.add_span_processor(BatchSpanProcessor(FileSpanExporter(Path(folder) / "batches.jsonl")))
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=printed)))
    for address in collector:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(address)))
    trace.set_tracer_provider(provider)
    import_module(INSTRUMENTATIONS[name]).OpenAIInstrumentor().instrument()

    def ask(other_key, **parameters):
        client = openai.OpenAI(base_url=url, api_key=other_key or key, max_retries=0)
        # Around the calls, as a program's own span would be.
        with trace.get_tracer("program").start_as_current_span("answer_ticket"):
            return client.chat.completions.create(**parameters)

    make_calls(ask)
    provider.shutdown()
