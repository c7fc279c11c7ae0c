"""Asks the model with the prompt in prompt.json: `python ask.py "where is my parcel?"`. Needs openai."""

import json
import os
import sys
from pathlib import Path

from openai import OpenAI

text = Path(__file__).with_name("prompt.json").read_text(encoding="utf-8")
prompt = json.loads(text)
key = os.environ.get(prompt["key_variable"], "none")  # openai wants one, also for a server that needs none
client = OpenAI(base_url=prompt["base_url"], api_key=key)


def ask(question: str) -> str:
    messages = [*prompt["messages"], {"role": "user", "content": question}]
    answer = client.chat.completions.create(
        model=prompt["model"],
        messages=messages,
        extra_body=prompt["parameters"],
    )
    return answer.choices[0].message.content or ""


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(ask(each))
