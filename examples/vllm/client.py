"""Asks vLLM with a soft prompt: python examples/vllm/client.py ADAPTER MODEL "a text" ["another" ...].

Start the server first: vllm serve MODEL --enable-prompt-embeds
"""

import argparse
import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen

from tunewright.adapters import folder
from tunewright.releases.export import decoding_of, open_base
from tunewright.releases.payload import body, prompt_vectors


def main() -> None:
    """Prints the server's answer to each text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("model")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--url", default="http://localhost:8000/v1/completions")
    given = parser.parse_args()
    adapter = folder.load(given.adapter)
    base = open_base(adapter, given.model)
    for text in given.texts:
        content = json.dumps(
            body(prompt_vectors(adapter, base, text), decoding_of(adapter), model=given.model)
        ).encode()
        with urlopen(Request(given.url, content, {"Content-Type": "application/json"})) as reply:
            sys.stdout.write(json.load(reply)["choices"][0]["text"] + "\n")


if __name__ == "__main__":
    main()
