"""The language model's head: from hidden states to log-probabilities of the next token, a chunk of rows at a time.

Nothing here holds logits of more than a chunk: [rows, tokens, vocabulary] never exists.

Shapes: M hidden states, m of a chunk, D width, V vocabulary, E asked (state, token) pairs, K token ids.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunewright.adapters.parts import Weights

_CHUNK_VALUES = 2**24
"""Logits that exist at a time: 64 MiB in fp32."""


class NextToken(nn.Module):
    """The head of a decoder, frozen but for rows of word embeddings that it shares with an adapter's own weights.

    Args:
        table: The base's word embeddings.
        weight_VD: The head's own weights; None where they are the table's.
        bias_V: Added to the logits.
        softcap: Logits are bent into plus or minus this.
    """

    def __init__(self, table: nn.Embedding, weight_VD: Tensor | None, bias_V: Tensor | None, softcap: float | None):
        super().__init__()
        self.is_tied = weight_VD is None
        like = table.weight
        self.weight = like if weight_VD is None else nn.Parameter(weight_VD.to(like), requires_grad=False)
        self.bias = None if bias_V is None else nn.Parameter(bias_V.to(like), requires_grad=False)
        self._softcap = softcap

    def logits(self, hidden_MD: Tensor, weights: Weights | None = None, ids_K: Tensor | None = None) -> Tensor:
        """Logits [M, V] in fp32, or [M, K] of some tokens.

        Args:
            hidden_MD: Last hidden states.
            weights: Of the adapter, which may have word embeddings of its own.
            ids_K: The tokens.
        """
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if ids_K is not None:
            weight, bias = weight[ids_K], None if bias is None else bias[ids_K]
        if self.is_tied and weights is not None and ids_K is not None:
            weight = weights.look_up(ids_K, weight)
        logits = nn.functional.linear(hidden_MD.to(weight.dtype), weight, bias)
        if self.is_tied and weights is not None and ids_K is None and weights.vocabulary in weights.values:
            own, ids = weights.values[weights.vocabulary].to(weight), weights.vocabulary_ids_V.to(weight.device)
            changed = nn.functional.linear(hidden_MD.to(own.dtype), own, None if bias is None else bias[ids])
            logits = logits.index_copy(1, ids, changed)
        logits = logits.float()
        return logits if self._softcap is None else (logits / self._softcap).tanh() * self._softcap

    def rows(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Weights [K, D] and biases [K] of tokens, fp32 on the CPU."""
        index_K = torch.tensor(list(ids), device=self.weight.device)
        weight_KD = self.weight[index_K].float().cpu()
        bias_K = weight_KD.new_zeros(len(ids)) if self.bias is None else self.bias[index_K].float().cpu()
        return weight_KD, bias_K

    def log_probs(
        self, hidden_MD: Tensor, state_E: Sequence[int], token_E: Sequence[int], weights: Weights | None = None
    ) -> Tensor:
        """Log-probability of tokens after hidden states, fp32 [E]; gradients flow, a chunk computed again for them.

        Args:
            hidden_MD: Last hidden states.
            state_E: Index of a hidden state, ascending.
            token_E: A token that may follow it.
            weights: Of the adapter.
        """
        size = max(1, _CHUNK_VALUES // self.weight.shape[0])
        counts = [0] * -(-len(hidden_MD) // size)
        for state in state_E:
            counts[state // size] += 1
        ends = list(accumulate(counts))
        found = []
        for number, (end, count) in enumerate(zip(ends, counts, strict=True)):
            span = slice(end - count, end)
            states = torch.tensor([s - number * size for s in state_E[span]], device=hidden_MD.device)
            tokens = torch.tensor(list(token_E[span]), device=hidden_MD.device)
            chunk_mD = hidden_MD[number * size : (number + 1) * size]
            again = len(counts) > 1 and torch.is_grad_enabled()
            run = partial(checkpoint, self._chunk, use_reentrant=False) if again else self._chunk
            if count:
                found.append(run(chunk_mD, states, tokens, weights))
        return torch.cat(found) if found else hidden_MD.new_zeros(0, dtype=torch.float32)

    def _chunk(self, hidden_mD: Tensor, state_E: Tensor, token_E: Tensor, weights: Weights | None) -> Tensor:
        logits_mV = self.logits(hidden_mD, weights)
        return logits_mV[state_E, token_E] - logits_mV.logsumexp(-1)[state_E]
