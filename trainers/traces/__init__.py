"""Reads calls of models that other tools recorded, and counts what a team needs to know of them. Calls no model itself.

calls          the recorded call, and what the formats have in common: messages, tokens, times
documents      splits a file into JSON documents or records of a table, with limits
attributes     a span's attributes in the conventions that tools write
otlp           spans in OTLP JSON, and as OpenTelemetry's SDK prints them
langfuse, litellm, completions
               exports of Langfuse, logs of LiteLLM, OpenAI's stored completions and pairs of request and answer
reader         all calls of a file, whose format it recognises, and what could not be read
facts          models, instructions, tokens and calls a month
rows           the questions as rows without labels, or with the model's own answers
"""

PUBLIC_MODULES = ("calls", "facts", "otlp", "reader", "rows")
