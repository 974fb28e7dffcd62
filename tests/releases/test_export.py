"""What leaves the project, read by those it is made for."""

import base64
import dataclasses
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from tests import tiny
from tests.commands import environment
from tests.parity.test_peft import run_peft
from tunewright.adapters import folder
from tunewright.adapters.adapter import PARTS, Adapter
from tunewright.adapters.parts import Calibration, Decoding, DemonstrationPool, Part, Template, Verbalizer
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.encoder import Encoder
from tunewright.errors import AdapterError, ConfigError, RunError
from tunewright.releases.export import READERS, RUNS, Target, export, table

TEXTS = ["soup", "the train was late and my luggage is in the airport", "a piano", "bread with cheese!"]
TARGETS: tuple[Target, ...] = ("peft", "vllm", "merged", "text")

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")

Folder = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()


def loaded(path: Path) -> Any:
    return transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()


def plain_features(model: Any, base: Backbone, texts: list[str]) -> torch.Tensor:
    """By transformers alone, one text at a time: the mean over tokens of an encoder, the last of a decoder."""
    found = []
    for encoding in tiny.encodings(base, texts):
        ids = torch.tensor([encoding.ids])
        with torch.no_grad():
            hidden_TD = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        found.append(hidden_TD.mean(0) if isinstance(base, Encoder) else hidden_TD[-1])
    return torch.stack(found)


def changed(base: Backbone, part: str) -> Adapter:
    if part == "lora":
        return tiny.adapter(base, lora=tiny.lora(base, 3, seed=300))
    return tiny.adapter(base, weights=tiny.weights(base, 7, sorted({i for t in TEXTS for i in base.token_ids(t)})))


@pytest.mark.parametrize("part", ["lora", "weights"])
@pytest.mark.parametrize("kind", ["bert", "modernbert", "mpnet", "gpt2", "llama", "gemma3_text", "opt", "bloom"])
def test_merged_has_the_same_features_in_transformers(
    kind: str, part: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    base = tiny.backbone(tiny_folder(kind))
    adapter = changed(base, part)
    done = export(adapter, "merged", tmp_path / "merged", model=str(tiny_folder(kind)))
    assert (done.kept, done.lost) == ((part,), ("head",))
    with torch.no_grad():
        ours = base.features(tiny.rows(adapter, tiny.encodings(base, TEXTS)))
        bare = base.features(tiny.rows(tiny.adapter(base), tiny.encodings(base, TEXTS)))
    theirs = plain_features(loaded(tmp_path / "merged"), base, TEXTS)
    assert ((ours - bare).abs().amax(-1) > 1e-2).all(), "the part does nothing"
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


def test_merged_is_a_base_of_its_own(tiny_folder: Folder, tmp_path: Path) -> None:
    """Read again as a base: its tokenizer is the same, its weights are not."""
    base = tiny.backbone(tiny_folder("bert"))
    export(changed(base, "lora"), "merged", tmp_path / "merged", model=str(tiny_folder("bert")))
    again = load_checkpoint(str(tmp_path / "merged")).identity
    assert again.tokenizer_sha256 == base.identity.tokenizer_sha256
    assert again.sha256 != base.identity.sha256


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_head_for_text_stays(kind: str, tiny_folder: Folder, tmp_path: Path) -> None:
    """The merged checkpoint writes text as PEFT's model with the same LoRA does."""
    whole = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(tiny_folder(kind)), dtype=torch.float32
    )
    whole.base_model.load_state_dict(loaded(tiny_folder(kind)).state_dict())
    whole.save_pretrained(tmp_path / "base")
    transformers.AutoTokenizer.from_pretrained(tiny_folder(kind)).save_pretrained(tmp_path / "base")
    base = tiny.backbone(tmp_path / "base")
    adapter = changed(base, "lora")
    export(adapter, "merged", tmp_path / "merged", model=str(tmp_path / "base"))
    export(adapter, "peft", tmp_path / "peft", model=str(tmp_path / "base"))
    ids = torch.tensor([tiny.encodings(base, TEXTS)[1].ids])
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
    with torch.no_grad():
        before = plain(input_ids=ids).logits
        peft.PeftModel.from_pretrained(plain.base_model, tmp_path / "peft" / "lora").eval()  # changes it in place
        expected = plain(input_ids=ids).logits
        found = merged(input_ids=ids).logits
    assert (expected - before).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_pooling_goes_along(tmp_path: Path) -> None:
    tiny.build("bert", tmp_path / "base")
    tiny.set_pooling(tmp_path / "base", "cls")
    base = tiny.backbone(tmp_path / "base")
    export(changed(base, "lora"), "merged", tmp_path / "merged", model=str(tmp_path / "base"))
    assert load_checkpoint(str(tmp_path / "merged")).pooling == "cls"


def test_every_part_as_its_own_peft_folder(tiny_folder: Folder, tmp_path: Path) -> None:
    base = tiny.encoder(tiny_folder("bert"))
    parts: dict[str, Part] = {
        "soft_prompt": tiny.soft_prompt(base, 5, seed=1),
        "prefix": tiny.prefix(base, 4, seed=2),
        "lora": tiny.lora(base, 3, seed=300),
    }
    adapter = tiny.adapter(base, head=tiny.head(base, 1), **parts)
    done = export(adapter, "peft", tmp_path / "peft", model=str(tiny_folder("bert")))
    assert (set(done.kept), done.lost) == (set(parts), ("head",))
    found = tiny.encodings(base, TEXTS)
    for name, part in parts.items():
        model = peft.PeftModel.from_pretrained(loaded(tiny_folder("bert")), tmp_path / "peft" / name).eval()
        hidden, layout = base.hidden_states(tiny.rows(tiny.adapter(base, **{name: part}), found))
        ours = [row[: int(mask.sum())] for row, mask in zip(hidden, layout.mask_BL, strict=True)]
        with torch.no_grad():
            theirs = run_peft(model, found)
        for mine, its in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, its, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_vllm_s_body_decodes_to_exactly_these_vectors(kind: str, tiny_folder: Folder, tmp_path: Path) -> None:
    """Decoded as vLLM does; the embeddings of the text are those that transformers puts into the model."""
    base = tiny.backbone(tiny_folder(kind))
    adapter = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 7, seed=1), head=tiny.head(base, 2))
    done = export(adapter, "vllm", tmp_path / "body.json", model=str(tiny_folder(kind)), text=TEXTS[1])
    assert (done.kept, done.lost) == (("soft_prompt",), ("head",))
    body = json.loads((tmp_path / "body.json").read_text())
    assert body["model"] == str(tiny_folder(kind))
    content = base64.b64decode(body["prompt_embeds"], validate=True)
    vectors_ND = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    assert (vectors_ND.dtype, vectors_ND.layout, vectors_ND.ndim) == (torch.float32, torch.strided, 2)
    model, entered = loaded(tiny_folder(kind)), []
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder(kind))
    model.get_input_embeddings().register_forward_hook(lambda _m, _i, output: entered.append(output))
    with torch.no_grad():
        model(**tokenizer(TEXTS[1], return_tensors="pt"))
    assert adapter.soft_prompt is not None
    assert torch.equal(vectors_ND[:7], adapter.soft_prompt.vectors_PD)
    assert torch.equal(vectors_ND[7:], entered[0][0])
    assert len(content) < vectors_ND.numel() * 4 + 4096, "more than these vectors was saved"


def test_vllm_s_body_with_a_template(tiny_folder: Folder, tmp_path: Path) -> None:
    """Soft prompt, instruction, row: the tokens of each as transformers' tokenizer has them."""
    base = tiny.backbone(tiny_folder("llama"))
    template = Template(fixed="answer with one of food and music", row=" text: {text} label:")
    decoding = Decoding(max_new_tokens=3, stop=("\n",))
    bare = dataclasses.replace(tiny.adapter(base), head=None)
    soft = tiny.soft_prompt(base, 2, seed=1)
    adapter = dataclasses.replace(bare, soft_prompt=soft, template=template, decoding=decoding)
    done = export(adapter, "vllm", tmp_path / "body.json", model=str(tiny_folder("llama")), text="the soup")
    assert (set(done.kept), done.lost) == ({"template", "soft_prompt", "decoding"}, ())
    body = json.loads((tmp_path / "body.json").read_text())
    assert (body["max_tokens"], body["temperature"], body["top_p"], body["stop"]) == (3, 0.0, 1.0, ["\n"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder("llama"))
    fixed = tokenizer(template.fixed)["input_ids"]
    row = tokenizer(" text: the soup label:", add_special_tokens=False)["input_ids"]
    table_VD = loaded(tiny_folder("llama")).get_input_embeddings().weight.detach()
    expected = torch.cat([soft.vectors_PD, table_VD[torch.tensor([*fixed, *row])]])
    content = io.BytesIO(base64.b64decode(body["prompt_embeds"]))
    assert torch.equal(torch.load(content, weights_only=True), expected)


def test_the_client_sends_each_text(tiny_folder: Folder, tmp_path: Path) -> None:
    """Against a stand-in for vLLM that answers with the number of vectors it decodes."""

    class Stand(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            decoded = torch.load(io.BytesIO(base64.b64decode(content["prompt_embeds"])), weights_only=True)
            reply = json.dumps({"choices": [{"text": f"{len(decoded)} vectors"}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

    base = tiny.backbone(tiny_folder("llama"))
    folder.save(tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 7, seed=1)), tmp_path / "adapter")
    server = HTTPServer(("127.0.0.1", 0), Stand)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = Path(__file__).parents[2] / "examples" / "vllm" / "client.py"
    url = f"http://127.0.0.1:{server.server_port}/v1/completions"
    command = [
        sys.executable,
        *map(str, (client, tmp_path / "adapter", tiny_folder("llama"))),
        *TEXTS[:2],
        "--url",
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    server.shutdown()
    server.server_close()
    counts = [7 + len(found.ids) for found in tiny.encodings(base, TEXTS[:2])]
    assert done.stdout.splitlines() == [f"{count} vectors" for count in counts], done.stderr


def test_text(tiny_folder: Folder, tmp_path: Path) -> None:
    base = tiny.backbone(tiny_folder("bert"))
    pool = DemonstrationPool(
        texts=("good soup", "late train"),
        labels_N=torch.tensor([1, 0]),
        vectors_ND=torch.eye(2, base.width),
        num_neighbours=1,
        temperature=1.0,
    )
    labels = tiny.adapter(base).labels
    phrases = tuple((f"about {label}", label) for label in labels)
    verbalizer = Verbalizer(phrases=phrases, scale=10.0)
    calibration = Calibration(temperature=2.0)
    bare = dataclasses.replace(tiny.adapter(base), head=None)
    adapter = dataclasses.replace(bare, demonstrations=pool, verbalizer=verbalizer, calibration=calibration)
    done = export(adapter, "text", tmp_path / "prompt.txt")
    assert (set(done.kept), done.lost) == ({"demonstrations", "verbalizer"}, ("calibration",))
    words = (tmp_path / "prompt.txt").read_text()
    assert f"{labels[0]}: about {labels[0]}; {labels[0]}" in words
    assert f"Text: good soup\nLabel: {labels[1]}\n\nText: late train\nLabel: {labels[0]}" in words


def test_kept_and_lost_are_all_parts_and_as_the_table_says(tiny_folder: Folder, tmp_path: Path) -> None:
    base = tiny.backbone(tiny_folder("llama"))
    adapter = tiny.every_part(base)
    for target in TARGETS:
        text = "soup" if target == "vllm" else None
        done = export(adapter, target, tmp_path / target, model=str(tiny_folder("llama")), text=text)
        assert {*done.kept, *done.lost} == set(adapter.parts())
        assert all((target in RUNS.get(name, {})) == (name in done.kept) for name in adapter.parts())


def test_the_guide_has_the_table() -> None:
    assert set(RUNS) <= set(PARTS)
    assert tuple(READERS) == TARGETS
    guide = Path(__file__).parents[2] / "docs" / "guides" / "export.md"
    assert table() in guide.read_text(encoding="utf-8")


def test_mistakes(tiny_folder: Folder, tmp_path: Path) -> None:
    base = tiny.backbone(tiny_folder("bert"))
    soft, model = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 2, seed=1)), str(tiny_folder("bert"))
    with pytest.raises(ConfigError, match="Give what it asks with --text"):
        export(soft, "vllm", tmp_path / "x", model=model)
    with pytest.raises(ConfigError, match="--to peft has no use for it"):
        export(soft, "peft", tmp_path / "x", model=model, text="soup")
    with pytest.raises(AdapterError, match=r"for decoders\. Got a base of kind encoder"):
        export(soft, "vllm", tmp_path / "x", model=model, text="soup")
    with pytest.raises(AdapterError, match=r"--to merged has a form for lora, weights\. The adapter has soft_prompt"):
        export(soft, "merged", tmp_path / "x", model=model)
    with pytest.raises(AdapterError, match="the adapter belongs to"):
        export(changed(base, "lora"), "merged", tmp_path / "x", model=str(tiny_folder("roberta")))
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="taken exists"):
        export(soft, "peft", tmp_path / "taken", model=model)
    assert not (tmp_path / "x").exists()
