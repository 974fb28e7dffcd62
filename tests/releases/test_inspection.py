"""What is read from an adapter, against sums written out by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tunewright.adapters import folder, peft_format
from tunewright.adapters.parts import SoftPrompt, Verbalizer
from tunewright.backbones.backbone import Backbone
from tunewright.errors import AdapterError
from tunewright.releases.inspection import read_adapter, read_prompt

TOP = 4


@pytest.mark.parametrize("kind", ["bert", "llama", "gemma2"])
def test_nearest_words(kind: str, tiny_backbone: Callable[[str], Backbone]) -> None:
    """Every cosine and dot product, one pair at a time in float64; a word's own vector is nearest to itself."""
    base = tiny_backbone(kind)
    table = base.word_embeddings.double().numpy()
    vectors_PD = base.word_embeddings[[40, 7]] * 3
    vectors_PD[1] = tiny.normal(4, table.shape[1])
    found = read_prompt(vectors_PD, base.word_embeddings, base.words, TOP)
    for vector, read in zip(vectors_PD.double().numpy(), found.vectors, strict=True):
        dots = [float(np.dot(vector, row)) for row in table]
        cosines = [d / float(np.linalg.norm(vector) * np.linalg.norm(row)) for d, row in zip(dots, table, strict=True)]
        for scores, near in ((cosines, read.by_cosine), (dots, read.by_dot)):
            best = sorted(range(len(scores)), key=lambda k: -scores[k])[:TOP]
            assert [n.word for n in near] == base.words(best)
            assert [n.similarity for n in near] == pytest.approx([scores[k] for k in best], abs=1e-5, rel=1e-5)
        assert read.norm == pytest.approx(float(np.linalg.norm(vector)), rel=1e-5)
    assert found.vectors[0].by_cosine[0].word == base.words([40])[0]
    assert found.vectors[0].by_cosine[0].similarity == pytest.approx(1.0, abs=1e-5)
    norms = np.quantile(np.linalg.norm(table, axis=1), [0.05, 0.5, 0.95])
    assert found.vocabulary_norms == pytest.approx(norms.tolist(), rel=1e-5)


def test_everything_is_listed(tiny_backbone: Callable[[str], Backbone], tmp_path: Path) -> None:
    """Bytes of the parts add up, texts are whole, and norms are those of the products themselves."""
    base = tiny_backbone("llama")
    lora, prefix = tiny.lora(base, 3, seed=5), tiny.prefix(base, 4, seed=6)
    phrases = Verbalizer(phrases=(("bread",), ("train",), ("song",)), scale=2.0)
    adapter = replace(tiny.adapter(base, lora=lora, prefix=prefix, verbalizer=phrases), about={"task": "topics"})
    folder.save(adapter, tmp_path / "a")
    found = read_adapter(tmp_path / "a")
    assert found.base == base.identity
    assert found.sha256 == adapter.sha256()
    assert found.about == {"task": "topics"}
    assert {p.name for p in found.parts} == {"lora", "prefix", "verbalizer", "head"}
    stored = sum(4 * int(np.prod(shape)) for part in found.parts for shape in part.shapes.values())
    assert sum(p.bytes for p in found.parts) == stored
    (said,) = [p.settings for p in found.parts if p.name == "verbalizer"]
    assert said["phrases"] == [["bread"], ["train"], ["song"]]
    norms = {each.place: each.norm for each in found.norms}
    for name in lora.down:
        assert norms[name] == pytest.approx(float((lora.scaling * lora.up[name] @ lora.down[name]).norm()), rel=1e-4)
    for k in range(3):
        assert norms[f"layer {k} keys"] == pytest.approx(float(prefix.keys_LHPd[k].norm()), rel=1e-5)
        assert norms[f"layer {k} values"] == pytest.approx(float(prefix.values_LHPd[k].norm()), rel=1e-5)
    assert found.soft_prompt is None


def test_a_folder_of_pefts(
    tiny_backbone: Callable[[str], Backbone], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tiny_backbone("gpt2")
    part = SoftPrompt(vectors_PD=base.word_embeddings[[9, 9, 12]].clone())
    peft_format.write(part, tmp_path / "named", base_name=str(tiny_folder("gpt2")))
    found = read_adapter(tmp_path / "named")
    assert found.base is None
    assert found.soft_prompt is not None
    assert [v.by_cosine[0].word for v in found.soft_prompt.vectors] == base.words([9, 9, 12])
    peft_format.write(part, tmp_path / "nameless", base_name="")
    with pytest.raises(AdapterError, match="--model"):
        read_adapter(tmp_path / "nameless")
    assert read_adapter(tmp_path / "nameless", model=str(tiny_folder("gpt2"))).soft_prompt == found.soft_prompt
