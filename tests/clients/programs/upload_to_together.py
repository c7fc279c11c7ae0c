"""Uploads a file (the third argument) with Together's own client to a server (its address and a key are the first two).
Prints the answer as JSON."""

import sys
from pathlib import Path

from together import Together

address, key, path = sys.argv[1:]
client = Together(base_url=address, api_key=key, max_retries=0)
uploaded = client.files.upload(Path(path), purpose="fine-tune", check=False)
print(uploaded.model_dump_json(by_alias=True))
