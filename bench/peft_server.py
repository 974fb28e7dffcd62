"""How PEFT serves many tasks: one model, `set_adapter` for each request, one request at a time.

The same HTTP stack as ours, without our checks. Usage: python -m bench.peft_server MODEL PORT FOLDER...
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from tunewright.adapters import folder
from tunewright.adapters.parts import Head


def load(model: str, folders: list[Path]) -> tuple[Any, Any, dict[str, Head]]:
    """The model with every task's adapter, its tokenizer, and the tasks' heads."""
    base = transformers.AutoModel.from_pretrained(model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    heads: dict[str, Head] = {}
    wrapped = None
    for path in folders:
        (part,) = (path / "peft").iterdir()
        if wrapped is None:
            wrapped = peft.PeftModel.from_pretrained(base, str(part), adapter_name=path.name)
        else:
            wrapped.load_adapter(str(part), adapter_name=path.name)
        head = folder.load(path).head
        assert head is not None
        heads[path.name] = head
    assert wrapped is not None
    # In the precision of the adapters, as our side is.
    return wrapped.to(getattr(torch, str(folder.load(folders[0]).about["dtype"]))), tokenizer, heads


def main() -> None:
    """Serves until it is killed."""
    model, port, *folders = sys.argv[1:]
    wrapped, tokenizer, heads = load(model, [Path(path) for path in folders])
    app, turn = FastAPI(), asyncio.Lock()
    reads_last = wrapped.config.model_type == "gpt2"

    def answer(task: str, text: str) -> list[float]:
        with torch.inference_mode():
            wrapped.set_adapter(task)
            batch = tokenizer([text], return_tensors="pt", truncation=True)
            hidden = wrapped(**batch).last_hidden_state
            if hidden.shape[1] > batch["input_ids"].shape[1]:
                hidden = hidden[:, -batch["input_ids"].shape[1] :]
            pooled = hidden[:, -1] if reads_last else hidden.mean(1)
            head = heads[task]
            return torch.nn.functional.linear(pooled.float(), head.weight_CD, head.bias_C).softmax(-1)[0].tolist()

    @app.post("/v1/tasks/{task}/predict")
    async def predict(task: str, request: Request) -> JSONResponse:
        body = await request.json()
        async with turn:
            probabilities = await asyncio.to_thread(answer, task, body["text"])
        return JSONResponse({"probabilities": probabilities})

    uvicorn.run(app, port=int(port), log_level="error")


if __name__ == "__main__":
    main()
