"""Adapters that PEFT runs: its own layers around the base's linear layers, for the rows of one adapter at a time."""

import contextlib
import copy
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tunewright.adapters.parts import MISFITS, Tuner
from tunewright.adapters.peft_format import ABOUT_FILES
from tunewright.errors import AdapterError
from tunewright.runtime import quiet_libraries

NO_PEFT = "PEFT is not installed. Run: pip install 'tunewright[peft]'."

_APART: Mapping[str, str] = {
    "ADALORA": "its ranks are shared out anew between steps",
    "POLY": "its rows name a task of its own",
    "XLORA": "it needs adapters that are trained already",
    "TRAINABLE_TOKENS": "it changes embeddings, not layers",
    "LN_TUNING": "it changes norms, not linear layers",
    "OSF": "it rewrites the weights of the base",
    "SHADOW": "it runs a network of its own beside the base",
}
"""What has no place in one loop over a frozen base, and why."""

_VARIANTS: Mapping[str, Mapping[str, object]] = {"dora": {"use_dora": True}}
"""Of LoRA, which itself runs without PEFT: settings."""


@cache
def types() -> Mapping[str, tuple[Any, Mapping[str, object]]]:
    """Name -> PEFT's class of settings, and what is set of them.

    Raises:
        AdapterError: PEFT is not installed.
    """
    try:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as TUNERS
        from peft.tuners.tuners_utils import BaseTuner
    except ImportError:
        raise AdapterError(NO_PEFT) from None
    tuners: Mapping[Any, Any] = TUNERS
    able = [k for k, tuner in tuners.items() if issubclass(tuner, BaseTuner) and k.value not in {"LORA", *_APART}]
    found: dict[str, tuple[Any, Mapping[str, object]]] = {k.value.lower(): (CONFIGS[k], {}) for k in able}
    lora = next(CONFIGS[k] for k in TUNERS if k.value == "LORA")
    return dict(sorted((found | {name: (lora, settings) for name, settings in _VARIANTS.items()}).items()))


def left_out(name: str) -> str | None:
    """Why a type of PEFT's has no place here, or None."""
    return _APART.get(name.upper())


def default_rank(name: str) -> int | None:
    """PEFT's own, of a type that has one."""
    config = types()[name][0]
    rank = getattr(config, "r", None)
    return rank if isinstance(rank, int) and rank > 1 else None


def place(linears: "Linears", name: str, *, rank: int | None, seed: int) -> Tuner:
    """A new adapter, as PEFT starts it.

    All linear layers, but where a type treats keys, values and inner layers differently those PEFT names for the base.

    Args:
        linears: Layers to change.
        name: As in `types`.
        rank: Of a type that has one; None for PEFT's own.
        seed: Draws its start.

    Raises:
        AdapterError: PEFT cannot, with its reason.
    """
    kind, fixed = types()[name]
    given: dict[str, object] = dict(fixed)
    if rank is not None:
        scales = {key: getattr(kind, key, None) for key in ("alpha", "lora_alpha")}
        own = default_rank(name)
        assert own is not None
        given |= {"r": rank} | {key: rank * value // own for key, value in scales.items() if isinstance(value, int)}
    if not hasattr(kind, "feedforward_modules"):
        given["target_modules"] = sorted(linears.layers)
    with _reasons(name):
        return _injected(linears, kind(**given), seed).start


@dataclass(frozen=True)
class Linears:
    """Linear layers of a base that adapters may change."""

    layers: Mapping[str, nn.Linear]
    config: Any
    """The model's, by which PEFT looks up which layers a type changes."""
    as_stored: Callable[[int, int], nn.Module] | None = None
    """Makes a layer of the form that the checkpoint has, where that is not `nn.Linear`: PEFT must take it too."""


@dataclass(frozen=True, kw_only=True)
class Injected:
    """PEFT's layers for one setting."""

    layers: Mapping[str, nn.Module]
    """Name of the base's layer -> PEFT's around it, on the base's own weights."""
    names: Mapping[str, Mapping[str, str]]
    """Name of the base's layer -> tensor of PEFT's layer -> name in PEFT's file."""
    start: Tuner

    @contextlib.contextmanager
    def within(self, linears: Mapping[str, nn.Linear], values: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the context the base's layers compute what PEFT's do, with these values."""
        own = {name: linears[name].__dict__.get("forward") for name in self.layers}
        try:
            for name, layer in self.layers.items():
                mine = {key: values[stored].to(linears[name].weight.device) for key, stored in self.names[name].items()}
                linears[name].forward = partial(_run, layer, mine)  # type: ignore[method-assign]
            yield
        finally:
            for name, forward in own.items():
                if forward is None:
                    linears[name].__dict__.pop("forward", None)
                else:
                    linears[name].forward = forward  # type: ignore[method-assign]


def reason(linears: Linears, name: str) -> str | None:
    """Why a type cannot be put on a base: PEFT's own reason, or that its file does not hold all it computes; or None.

    Every layer is run once with the values of one start in the layers of another.
    """
    try:
        start, other = (place(linears, name, rank=None, seed=seed) for seed in (0, 1))
        pair = [inject(linears, each) for each in (start, other)]
        with _reasons(name):
            leaves = {key: value.requires_grad_(key in start.trained) for key, value in start.values.items()}
            outputs = [[_output(each, key, leaves) for key in pair[0].layers] for each in pair]
            assert all(map(torch.equal, *outputs)), "its file does not hold all that it computes with"
            torch.stack([output.square().sum() for output in outputs[0]]).sum().backward()
            still = [key for key in start.trained if leaves[key].grad is None]
            assert not still, f"{still[:1]} gets no gradient"
    except AdapterError as error:
        return str(error)
    return None


def _output(injected: Injected, name: str, values: Mapping[str, Tensor]) -> Tensor:
    """What one of PEFT's layers makes of something."""
    weight = injected.layers[name].get_base_layer().weight  # type: ignore[operator]
    given = torch.linspace(-1, 1, 2 * weight.shape[1], device=weight.device, dtype=weight.dtype).view(2, -1)
    mine = {key: values[stored].to(weight.device) for key, stored in injected.names[name].items()}
    return _run(injected.layers[name], mine, given)


def inject(linears: Linears, tuner: Tuner) -> Injected:
    """PEFT's layers for an adapter.

    Raises:
        AdapterError: PEFT cannot, with its reason, or the tensors are not those of the settings.
    """
    named = {config.__name__: config for config, _ in types().values()}
    kinds = {str(config().peft_type.value): config for config in named.values()}
    if tuner.kind not in kinds:
        raise AdapterError(f"a PEFT adapter of kind {tuner.kind} is not run here. Allowed: {', '.join(types())}.")
    with _reasons(tuner.kind.lower()):
        found = _injected(linears, kinds[tuner.kind](**{k: v for k, v in tuner.config.items() if k != "peft_type"}))
    shapes, wanted = ({n: tuple(t.shape) for n, t in each.values.items()} for each in (tuner, found.start))
    wrong = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
    if wrong:
        got, need = (each.get(wrong[0], "nothing") for each in (shapes, wanted))
        raise AdapterError(f"tuner: {wrong[0]} is {got}, its base needs {need}. Train the adapter again.")
    return found


_ROOT = "base_model.model."
_SELECTING = ("exclude_modules", "layers_pattern", "layers_to_transform")
"""Settings of which layers are changed, beside their names."""


def renamed(tuner: Tuner, layers: Sequence[str]) -> Tuner:
    """An adapter by the names of the bare base: a language model's file calls a layer `model.layers.0...`.

    Args:
        tuner: As PEFT saved it.
        layers: Names of the base's linear layers.
    """

    def layer_of(key: str) -> tuple[str, str] | None:
        name = key.removeprefix(_ROOT)
        for bare in (name, name.partition(".")[2]):
            for layer in layers:
                if bare.startswith(f"{layer}."):
                    return layer, bare
        return None

    found = {key: layer_of(key) for key in tuner.values if key.startswith(_ROOT)}
    values = {_ROOT + at[1] if (at := found.get(key)) else key: tensor for key, tensor in tuner.values.items()}
    changed = sorted({at[0] for at in found.values() if at is not None})
    config = {key: None if key in _SELECTING else value for key, value in tuner.config.items()}
    config["target_modules"] = changed
    inner = config.get("feedforward_modules")
    if inner is not None:
        config["feedforward_modules"] = [name for name in changed if _is_among(name, inner)]
    return replace(tuner, config=config, values=values)


def _is_among(layer: str, names: str | Sequence[str]) -> bool:
    """As PEFT reads its settings: a pattern, or how names end."""
    if isinstance(names, str):
        return re.fullmatch(names, layer) is not None
    return any(layer.endswith(name) or name.endswith(f".{layer}") for name in names)


def _run(layer: nn.Module, values: dict[str, Tensor], input: Tensor) -> Tensor:  # noqa: A002
    output: Tensor = functional_call(layer, values, (input,))
    return output.to(input.dtype)


@contextlib.contextmanager
def _reasons(name: str) -> Iterator[None]:
    """What PEFT raises, in one line."""
    try:
        with quiet_libraries(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (*MISFITS, NotImplementedError, ImportError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise AdapterError(f"PEFT's {name} cannot be put on it: {said}") from None


def _injected(linears: Linears, config: Any, seed: int = 0) -> Injected:
    import peft
    from peft.tuners.tuners_utils import BaseTunerLayer

    twins = _twins(linears)
    if linears.as_stored is not None:
        _try_on(max(linears.layers.values(), key=lambda layer: layer.weight.numel()), linears.as_stored, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = peft.get_peft_model(twins, config).eval()
    found: dict[str, Any] = {n: m for n, m in model.base_model.model.named_modules() if isinstance(m, BaseTunerLayer)}
    assert found.keys() <= linears.layers.keys(), "it changes more than linear layers"
    _share(linears, found)
    state, everything = peft.get_peft_model_state_dict(model), dict(model.named_parameters(remove_duplicate=False))
    stored = {_place(tensor): name for name, tensor in state.items()}
    learning = [parameter for parameter in everything.values() if parameter.requires_grad]
    assert all(_place(parameter) in stored for parameter in learning), "its file does not hold all that learns"
    names = dict[str, dict[str, str]]()
    for name, layer in found.items():
        tensors = [*layer.named_parameters(remove_duplicate=False), *layer.named_buffers(remove_duplicate=False)]
        names[name] = {key: stored[_place(tensor)] for key, tensor in tensors if _place(tensor) in stored}
    unused = set(state) - {stored for each in names.values() for stored in each.values()}
    assert not unused, f"its file holds {sorted(unused)[:1]}, which no layer computes with"
    values = {name: tensor.detach().clone() for name, tensor in state.items()}
    trained = tuple(sorted({stored[_place(parameter)] for parameter in learning}))
    start = Tuner(config=_settings(config, found), values=values, trained=trained)
    for name, layer in found.items():
        layer.to(linears.layers[name].weight.device)
    return Injected(layers=found, names=names, start=start)


def _twins(linears: Linears) -> nn.Module:
    """The layers alone, under their names, each a copy on the CPU, where PEFT draws its start from the seed.

    Whatever is done to them, the base's own are not touched.
    """
    root = nn.Module()
    for name, linear in linears.layers.items():
        *path, last = name.split(".")
        place = root
        for step in path:
            if not hasattr(place, step):
                place.add_module(step, nn.Module())
            place = place.get_submodule(step)
        twin = nn.Linear(1, 1, bias=linear.bias is not None)
        twin.in_features, twin.out_features = linear.in_features, linear.out_features
        twin.weight = nn.Parameter(linear.weight.detach().cpu().clone(), requires_grad=False)
        if linear.bias is not None:
            twin.bias = nn.Parameter(linear.bias.detach().cpu().clone(), requires_grad=False)
        place.add_module(last, twin)
    root.config = linears.config
    return root


def _share(linears: Linears, found: Mapping[str, Any]) -> None:
    """In place of the copies, which must be what they were, the base's own weights."""
    for name, layer in found.items():
        twin, own = layer.get_base_layer(), linears.layers[name]
        for key, parameter in own.named_parameters():
            assert torch.equal(getattr(twin, key), parameter.cpu()), "it changes the weights of the base"
            if not getattr(twin, key).requires_grad:
                setattr(twin, key, parameter)


def _try_on(layer: nn.Linear, as_stored: Callable[[int, int], nn.Module], config: Any) -> None:
    """Raises PEFT's reason where it does not take the checkpoint's form of a layer."""
    import peft

    alone = copy.deepcopy(config)
    alone.target_modules = ["layer"]
    if hasattr(alone, "feedforward_modules"):
        alone.feedforward_modules = ["layer"]
    model: Any = nn.ModuleDict({"layer": as_stored(layer.in_features, layer.out_features)})
    peft.get_peft_model(model, alone)


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Tensors that share their memory have the same."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _settings(config: Any, found: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON, with the changed layers by name: PEFT shortens names to what is enough among the layers it sees."""
    given = {key: value for key, value in config.to_dict().items() if key not in ABOUT_FILES}
    given["target_modules"] = sorted(found)
    if "feedforward_modules" in given:
        given["feedforward_modules"] = sorted(name for name, layer in found.items() if layer.is_feedforward)
    settings: dict[str, Any] = json.loads(json.dumps(given, default=sorted))
    return settings
