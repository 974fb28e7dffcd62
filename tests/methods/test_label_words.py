"""What stands for a label, and how answers are calibrated, each against a few naive lines."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.backbones.test_scoring import alone, whole_model
from tunewright.adapters import folder
from tunewright.adapters.parts import Template
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import FeatureStore, predict, readings
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.base import Choice, Material, word_remarks
from tunewright.methods.label_words import by_words, soft
from tunewright.methods.prompting import NOTHING_SAID, asking, calibrated, prompts
from tunewright.methods.table import METHODS
from tunewright.prompts.calibration import content_free_points
from tunewright.prompts.template import Prompt
from tunewright.prompts.verbalizer import most_telling, nearest_centre
from tunewright.runtime import generator
from tunewright.training.objective import Exam
from tunewright.tuning.attempt import Workshop, attempt, prepare
from tunewright.types import Task

GetBackbone = Callable[[str], Backbone]
GetDecoder = Callable[[str], Decoder]
GetFolder = Callable[[str], Path]
PROMPT = Prompt(fixed="old and new\n", row="it: {text}\nwas")
ASKED = ("llama", "masked-bert")


def workshop(base: Backbone, task: Task | None = None) -> Workshop:
    metric = METRICS["accuracy"]
    asked = tiny.task() if task is None else task
    return prepare(asked, base, tiny.examples(18), tiny.examples(9, seed=1), metric, base.max_tokens)


def words_task() -> Task:
    """Labels of one token each."""
    return Task(name="w", labels=("the", "old", "very"), descriptions={w: w for w in ("the", "old", "very")})


def labelled(base: Backbone) -> Material:
    """The rows of the three topics under labels of one token."""
    made, names = workshop(base).material, dict(zip(tiny.GROUPS, words_task().labels, strict=True))
    return replace(made, task=words_task(), examples=[replace(e, label=names[str(e.label)]) for e in made.examples])


def test_contextual(tiny_decoder: GetDecoder, tiny_folder: GetFolder) -> None:
    """Zhao et al.: mean probabilities of the labels under texts without content, one text at a time."""
    base, model = tiny_decoder("llama"), whole_model(tiny_folder("llama"))
    material = workshop(base).material
    adapter = material.adapter(**asking(material, PROMPT))
    means_C = torch.zeros(3)
    for text in NOTHING_SAID:
        (row,) = tiny.rows(adapter, base.encode_for(tiny.as_examples([text]), adapter))
        scores = [float(alone(model, base, row, base.encode_answer(label)).mean()) for label in adapter.labels]
        means_C += torch.tensor(scores).softmax(-1) / 3
    found = calibrated(adapter, material, {"calibration": "contextual"}).calibration
    assert found is not None
    assert found.bias_C is not None
    torch.testing.assert_close(found.bias_C, -means_C.log(), atol=1e-5, rtol=0)


def test_content_free_points_divide_probabilities() -> None:
    """A text that says nothing is then answered by no label; others as by W = diag(p)^-1."""
    logits_KC, logits_C = tiny.normal(1, 3, 4, scale=2.0), tiny.normal(2, 4)
    content_free = np.exp(logits_KC.double().numpy())
    content_free = (content_free / content_free.sum(1, keepdims=True)).mean(0)
    weighted = np.linalg.inv(np.diag(content_free)) @ np.exp(logits_C.double().numpy())
    found = (logits_C + content_free_points(logits_KC)).softmax(-1)
    assert found.tolist() == pytest.approx((weighted / weighted.sum()).tolist(), abs=1e-6)


def test_pmi(tiny_decoder: GetDecoder, tiny_folder: GetFolder) -> None:
    """Holtzman et al.: log P(label | row) - log P(label | the prompt's last words), by transformers."""
    base, model = tiny_decoder("llama"), whole_model(tiny_folder("llama"))
    material = workshop(base).material
    adapter = calibrated(material.adapter(**asking(material, PROMPT)), material, {"calibration": "pmi"})
    bare = replace(adapter, calibration=None, template=Template(fixed="", row="{text}\nwas"))
    (row,) = tiny.rows(adapter, base.encode_for(tiny.as_examples(["soup"]), adapter))
    (nothing,) = tiny.rows(bare, base.encode_for(tiny.as_examples([""]), bare))
    assert str(base.tokenizer.decode(list(nothing.encoding.ids), skip_special_tokens=True)).strip() == "was"
    answers = [base.encode_answer(label) for label in adapter.labels]
    both_2C = torch.tensor([[alone(model, base, r, a).mean().item() for a in answers] for r in (row, nothing)])
    expected_C = both_2C[0] - both_2C[1]
    found_C = base.logits([row])[0]
    torch.testing.assert_close(found_C.log_softmax(-1), expected_C.log_softmax(-1), atol=2e-5, rtol=0)


def test_most_telling_words() -> None:
    """Schick et al.'s likelihood ratio in its own form, over all words and labels one by one."""
    probs = tiny.normal(3, 20, 12, scale=1.5).softmax(-1).double()
    labels = [k % 3 if k < 15 else 0 for k in range(20)]
    merits = np.zeros((3, 12))
    for label in range(3):
        for word in range(12):
            p, mine = probs[:, word].numpy(), np.array([k == label for k in labels])
            scale = sum(~mine) / sum(mine)
            merits[label, word] = scale * (np.log(p[mine]).sum() - np.log(1 - p[mine]).sum())
            merits[label, word] += np.log(1 - p[~mine]).sum() - np.log(p[~mine]).sum()
            merits[label, word] /= sum(~mine)
    expected = [
        sorted((w for w in range(12) if merits[:, w].argmax() == c and merits[c, w] > 0), key=lambda w: -merits[c, w])
        for c in range(3)
    ]
    assert most_telling(probs.log().float(), torch.tensor(labels), 3, 12) == expected
    assert [len(mine) for mine in most_telling(probs.log().float(), torch.tensor(labels), 3, 2)] == [2, 2, 2]
    assert most_telling(probs.log().float(), torch.zeros(20, dtype=torch.long), 2, 3) == [[], []]


@pytest.mark.parametrize("kind", ASKED)
def test_automatic_words(kind: str, tiny_backbone: GetBackbone) -> None:
    """Words of one token from training rows that no two labels share, scored one by one under the prompt."""
    base = tiny_backbone(kind)
    material = labelled(base)
    prompt = prompts(material)["opinion"]
    adapter = material.adapter(**by_words(material, prompt, "automatic"))
    assert adapter.verbalizer is not None
    assert adapter.template is not None
    groups = adapter.verbalizer.phrases
    chosen = [word for group in groups for word in group]
    seen = {word for example in material.examples for word in example.text.split()}
    assert len(set(chosen)) == len(chosen) >= 3
    assert set(chosen) <= seen | set(adapter.labels)
    single = sorted(w for w in seen if len(w) > 1 and len(base.encode_answer(w, after=prompt.row)) == 1)
    single = [word for word in single if word not in adapter.labels]
    ids = [base.encode_answer(word, after=prompt.row) for word in single]
    rows = tiny.rows(adapter, base.encode_for(material.examples, adapter))
    scores_NW = torch.stack([base.scores([row], ids)[0] for row in rows])
    told = most_telling(scores_NW, material.rows.labels_N, 3, 3)
    assert [set(group) for group in groups] == [
        {single[w] for w in mine} or {label} for mine, label in zip(told, adapter.labels, strict=True)
    ]


def test_nearest_centre() -> None:
    """Logits are minus squared distances, in units of their mean, up to what all labels share."""
    features, labels = tiny.normal(4, 30, 6) + 3, torch.arange(30) % 3
    weight, bias = nearest_centre(features, labels, 3)
    centres = [features[labels == c].mean(0) for c in range(3)]
    own = sum(float((f - centres[int(c)]).square().sum()) for f, c in zip(features, labels, strict=True)) / 30
    far = torch.tensor([[-float((f - c).square().sum()) / (2 * own) for c in centres] for f in features])
    torch.testing.assert_close((features @ weight.T + bias).softmax(-1), far.softmax(-1), atol=1e-5, rtol=0)
    assert all(torch.isfinite(t).all() for t in nearest_centre(features[:2], labels[:2], 3))


@pytest.mark.parametrize("kind", ASKED)
def test_prototypes_are_means_under_the_template(kind: str, tiny_backbone: GetBackbone) -> None:
    base = tiny_backbone(kind)
    material = workshop(base).material
    adapter = material.adapter(**by_words(material, prompts(material)["label"], "prototypes"))
    encodings = base.encode_for(material.examples, adapter)
    features_ND = readings(replace(adapter, head=None), encodings, material.store)
    centres = [features_ND[material.rows.labels_N == c].mean(0) for c in range(3)]
    nearest = [min(range(3), key=lambda c: float((f - centres[c]).square().sum())) for f in features_ND]
    assert predict(adapter, encodings, material.store).argmax(-1).tolist() == nearest
    assert len(set(nearest)) > 1


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "masked-bert", "masked-roberta", "masked-electra"])
def test_vectors_start_as_their_words(kind: str, tiny_backbone: GetBackbone) -> None:
    """Labels of one token: the very probabilities of answering by words."""
    base = tiny_backbone(kind)
    material = labelled(base)
    prompt = prompts(material)["opinion"]
    ours, words = (material.adapter(**parts) for parts in (soft(material, prompt), asking(material, prompt)))
    base.check(ours)
    if {len(ids) for ids in base.phrase_ids(words)} != {1}:
        pytest.fail("labels of one token were asked for")
    found, expected = (predict(a, base.encode_for(material.examples, a), material.store) for a in (ours, words))
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("answer", ["words", "soft"])
@pytest.mark.parametrize("name", ["soft-prompt", "lora"])
@pytest.mark.parametrize("kind", ASKED)
def test_trained_methods_answer_by_words(
    kind: str, name: str, answer: str, tiny_backbone: GetBackbone, tmp_path: Path
) -> None:
    """Training lowers their loss on the training rows, and what was saved answers the same."""
    base, method = tiny_backbone(kind), METHODS[name]
    shop = workshop(base)
    choice = method.space(shop.material)["answer"]
    assert isinstance(choice, Choice)
    assert choice.options == ("head", "words", "soft")
    params = {key: each.default for key, each in method.space(shop.material).items()}
    params = {**params, "answer": answer, "epochs": 6, "batch_size": 6}
    start = method.place(shop.material, params, generator("x"))
    assert (start.head is None, start.template is None) == (answer == "words", False)
    ever = iter(range(100))
    assert isinstance(shop.exam, Exam)
    shop = replace(shop, exam=replace(shop.exam, score=lambda *_: float(next(ever))))
    fitted = attempt(method, params, shop, generator("x"), lambda *_: None).trained.adapter
    encodings = base.encode_for(shop.material.examples, fitted)
    losses = [
        torch.nn.functional.cross_entropy(predict(a, encodings, FeatureStore(base)), shop.material.rows.labels_N)
        for a in (start, fitted)
    ]
    assert losses[1] < losses[0] - 0.02
    folder.save(fitted, tmp_path / "adapter")
    again = folder.load(tmp_path / "adapter")
    base.check(again)
    assert torch.equal(predict(again, encodings, FeatureStore(base)), predict(fitted, encodings, FeatureStore(base)))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("Old Hat", "old_hat", "x"), "labels 'Old Hat' and 'old_hat' have the same words: 'old hat'; rename a label"),
        (("food", "\u266b"), "lacks the word '\u266b' of label '\u266b'"),
        (("food", "qwertzuiopasdfghj"), "of label 'qwertzuiopasdfghj' is 17 tokens; at most 16 have room"),
    ],
)
def test_labels_that_words_cannot_tell(labels: tuple[str, ...], said: str, tiny_backbone: GetBackbone) -> None:
    """One line for each method that asks, before anything runs; heads do not care."""
    base = tiny_backbone("masked-bert")
    task = Task(name="t", labels=labels, descriptions={label: label.replace("_", " ").lower() for label in labels})
    for name in ("template", "zero-shot", "few-shot", "prompt-search", "instruction-prompt", "combine"):
        assert said in str(METHODS[name].refusal(base, task))
    for name in ("lora", "soft-prompt"):
        assert METHODS[name].refusal(base, task) is None
        assert "answer" not in METHODS[name].space(replace(workshop(base).material, task=task))
    encoder = tiny_backbone("bert")
    assert METHODS["zero-shot"].refusal(encoder, task) is None
    assert word_remarks(base, task) == word_remarks(encoder, tiny.task()) == []


def test_what_is_told_of_label_words(tiny_backbone: GetBackbone) -> None:
    """Words that a masked model splits, with their pieces, and descriptions that two labels share."""
    base, alike = (
        tiny_backbone("masked-bert"),
        Task(name="t", labels=("old", "red"), descriptions={"old": "very; good", "red": "good; new"}),
    )
    split, shared = reversed(word_remarks(base, alike))
    assert split.endswith("splits label words, which take a mask for each piece: 'red' into r ##e ##d.")
    assert "is not asked by the labels' descriptions: labels 'old' and 'red' have the same words: 'good'" in shared
    assert shared.endswith("; change the descriptions (--descriptions).")
    assert "description" not in str(METHODS["zero-shot"].space(replace(workshop(base).material, task=alike))["words"])
    assert "description" in str(METHODS["zero-shot"].space(workshop(tiny_backbone("llama")).material)["words"])
