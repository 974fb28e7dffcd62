"""Candidates that may follow a text as one tree of tokens: what they begin with in common is run once.

A node of the tree sees its text and the nodes that lead to it. Its hidden state says how likely each next token is, so
that a candidate's last token needs no node.

Shapes: R texts, U nodes of a tree, S = 1 + U states, E asked (state, token) pairs, C candidates, T longest candidate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tunewright.adapters.parts import Weights
from tunewright.backbones.next_token import NextToken
from tunewright.backbones.packed import Sequences, sequences
from tunewright.backbones.prefix import Keys


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Candidates by what they begin with. State 0 is the end of the text, state 1 + u is node u."""

    tokens: tuple[int, ...]
    """Of each node; parents come before their children."""
    parents: tuple[int, ...]
    """State that each node follows."""
    depths: tuple[int, ...]
    """Nodes that lead to each."""
    states: tuple[int, ...]
    """State of each asked pair, ascending."""
    nexts: tuple[int, ...]
    """Token of each asked pair."""
    paths: tuple[tuple[int, ...], ...]
    """The asked pairs that make up each candidate."""

    def seen(self) -> Tensor:
        """Which nodes each node sees, itself and those that lead to it: bool [U, U]."""
        seen_UU = torch.eye(len(self.tokens), dtype=torch.bool)
        for u, parent in enumerate(self.parents):
            if parent > 0:
                seen_UU[u] |= seen_UU[parent - 1]
        return seen_UU

    def means(self, log_probs_E: Tensor) -> Tensor:
        """Mean log-probability per token of each candidate, [C]."""
        if not self.paths:
            return log_probs_E.new_zeros(0)
        longest = max(map(len, self.paths))
        index_CT = torch.tensor([[*path, *[0] * (longest - len(path))] for path in self.paths])
        share_CT = torch.tensor([[1 / len(path)] * len(path) + [0.0] * (longest - len(path)) for path in self.paths])
        return (log_probs_E[index_CT.to(log_probs_E.device)] * share_CT.to(log_probs_E)).sum(1)


def grow(candidates: Sequence[tuple[int, ...]]) -> Tree:
    """The tree of candidates, each of at least one token."""
    assert all(candidates), "a candidate has tokens"
    beginnings = {c[:size] for c in candidates for size in range(1, len(c))}
    nodes = sorted(beginnings, key=lambda b: (len(b), b))
    state = {(): 0, **{beginning: 1 + u for u, beginning in enumerate(nodes)}}
    asked = sorted({(state[c[:t]], c[t]) for c in candidates for t in range(len(c))})
    place = {pair: e for e, pair in enumerate(asked)}
    return Tree(
        tokens=tuple(b[-1] for b in nodes),
        parents=tuple(state[b[:-1]] for b in nodes),
        depths=tuple(len(b) - 1 for b in nodes),
        states=tuple(s for s, _ in asked),
        nexts=tuple(token for _, token in asked),
        paths=tuple(tuple(place[state[c[:t]], c[t]] for t in range(len(c))) for c in candidates),
    )


def branches(trees: Sequence[Tree], starts: Sequence[int], prefixes: Sequence[int], device: torch.device) -> Sequences:
    """The nodes of trees as sequences, each node at the position of a token that follows its parent.

    Args:
        trees: One for each text, each with a node.
        starts: Position after each text.
        prefixes: Which prefix each sees.
        device: Of the indices.
    """
    block = sequences([len(tree.tokens) for tree in trees], starts, prefixes, device)
    assert block is not None
    longest = block.filled_RT.shape[1]
    depths, seen = dict[int, Tensor](), dict[int, Tensor]()
    for tree in trees:
        if id(tree) not in seen:
            rest = longest - len(tree.tokens)
            depths[id(tree)] = torch.tensor([*tree.depths, *[0] * rest])
            seen[id(tree)] = nn.functional.pad(tree.seen(), (0, rest, 0, rest))
    position_RT = torch.stack([depths[id(tree)] for tree in trees]) + torch.tensor(list(starts))[:, None]
    tree_RTT = torch.stack([seen[id(tree)] for tree in trees])
    return replace(block, position_RT=position_RT.to(device), tree_RTT=tree_RTT.to(device))


class Seen:
    """Keys and values of texts, kept layer by layer for those who go on."""

    def __init__(self) -> None:
        self.layers: list[Keys] = []

    def extended(self, layer: int, new: Keys) -> Keys:
        if layer == len(self.layers):  # a layer that is computed again on the way back is known
            self.layers.append(new)
        return new


class Behind:
    """What some texts saw of themselves in an earlier pass.

    Args:
        layers: Of all texts.
        texts: Indices of those that go on.
    """

    def __init__(self, layers: Sequence[Keys], texts: Sequence[int]) -> None:
        self._layers, self._texts = layers, list(texts)

    def extended(self, layer: int, new: Keys) -> Keys:
        return self._layers[layer].of(self._texts).then(new)


def batches_of(trees: Sequence[Tree], most_tokens: int) -> Iterator[list[int]]:
    """Indices of the trees that have nodes, in order, so many at a time."""
    batch, size = list[int](), 0
    for k, tree in enumerate(trees):
        if batch and size + len(tree.tokens) > most_tokens:
            yield batch
            batch, size = [], 0
        if tree.tokens:
            batch.append(k)
            size += len(tree.tokens)
    if batch:
        yield batch


def tree_scores(
    head: NextToken, hidden_MD: Tensor, trees: Sequence[Tree], weights: Weights | None, *, normalised: bool
) -> list[Tensor]:
    """Score of each candidate of each tree: fp32 [C] for each text.

    Args:
        head: The language model's.
        hidden_MD: Hidden states: of the ends of all texts, then of the nodes, tree by tree.
        trees: One for each text.
        weights: Of the adapter.
        normalised: Whether a score is a mean log-probability in any case. Where it is not, candidates of one token get
            their logits, which differ from it by the same number for all of them, and of the head only their rows run.
    """
    bare = {r for r, tree in enumerate(trees) if not normalised and not tree.tokens}
    found = _token_logits(head, hidden_MD, {r: trees[r] for r in sorted(bare)}, weights)
    asked = [r for r in range(len(trees)) if r not in bare]
    roots = [trees[r].states.count(0) for r in asked]
    states = [r for r, root in zip(asked, roots, strict=True) for _ in range(root)]
    tokens = [t for r, root in zip(asked, roots, strict=True) for t in trees[r].nexts[:root]]
    before = len(trees) - 1
    for r, root in zip(asked, roots, strict=True):
        states += [before + state for state in trees[r].states[root:]]
        tokens += trees[r].nexts[root:]
        before += len(trees[r].tokens)
    sizes = [*roots, *(len(trees[r].nexts) - root for r, root in zip(asked, roots, strict=True))]
    parts = head.log_probs(hidden_MD, states, tokens, weights).split(sizes)
    for k, r in enumerate(asked):
        found[r] = trees[r].means(torch.cat([parts[k], parts[len(asked) + k]]))
    return [found[r] for r in range(len(trees))]


def _token_logits(
    head: NextToken, hidden_MD: Tensor, trees: dict[int, Tree], weights: Weights | None
) -> dict[int, Tensor]:
    """Logits of candidates of one token, by text."""
    groups: dict[int, list[int]] = {}
    for r, tree in trees.items():
        groups.setdefault(id(tree), []).append(r)
    found: dict[int, Tensor] = {}
    for members in groups.values():
        tree = trees[members[0]]
        ids_E = torch.tensor(tree.nexts, dtype=torch.long, device=hidden_MD.device)
        logits_RE = head.logits(hidden_MD[members], weights, ids_E)
        found |= {r: tree.means(logits_E) for r, logits_E in zip(members, logits_RE, strict=True)}
    return found
