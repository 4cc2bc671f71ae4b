"""Models that give logits, whatever opened them: ids in, logits out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from vicuna.answer.finite import check_finite
from vicuna.evaluation.likelihood import token_nll
from vicuna.gguf_file.reader import GGUFFile


class Runner(ABC):
    """A model that is open."""

    @abstractmethod
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """(T,) ids -> (T, V)."""

    @abstractmethod
    def size_bytes(self) -> int:
        """What its weights take in memory."""

    def nll(self, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """(T,) ids of each row -> (T - 1,): the negative log likelihood of each token but the first.

        Raises:
            UserError: the model computes no finite numbers.
        """
        return [check_finite(token_nll(self.logits(ids), ids)) for ids in rows]

    def log_probs(self, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> list[torch.Tensor]:
        """(T,) ids of each row -> (count, V): what may follow each of its last `count` ids, as log probabilities."""
        return [
            check_finite(self.logits(ids)[-count:].float().log_softmax(1))
            for ids, count in zip(rows, counts, strict=True)
        ]


class HFRunner(Runner):
    """A model of transformers."""

    def __init__(self, model: Any):
        self.model = model.eval()

    def size_bytes(self) -> int:
        return self.model.get_memory_footprint()

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        return self.model(torch.tensor([list(ids)], device=self.model.device)).logits[0].float().cpu()

    @torch.inference_mode()
    def nll(self, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """All rows at once, the shorter ones padded behind their end."""
        logits = self.model(**self._padded(rows), use_cache=False).logits
        return [check_finite(token_nll(one[: len(row)], row)).cpu() for one, row in zip(logits, rows, strict=True)]

    @torch.inference_mode()
    def log_probs(self, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> list[torch.Tensor]:
        """All rows at once; logits only of the places that are asked for in some row."""
        wanted = [range(len(row) - count, len(row)) for row, count in zip(rows, counts, strict=True)]
        places = sorted(set().union(*wanted))
        kept = torch.tensor(places, device=self.model.device)
        logits = self.model(**self._padded(rows), use_cache=False, logits_to_keep=kept).logits
        found = [[places.index(place) for place in of_row] for of_row in wanted]
        return [check_finite(one[at].float().log_softmax(1)).cpu() for one, at in zip(logits, found, strict=True)]

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.model.device)
        lengths = torch.tensor([[len(row)] for row in rows], device=ids.device)
        mask = (torch.arange(longest, device=ids.device) < lengths).long()
        return {"input_ids": ids, "attention_mask": mask}


class LlamaCppRunner(Runner):
    """A GGUF model in llama.cpp, with one adapter or none; keys and values are not rounded."""

    def __init__(self, file: GGUFFile, context: int, lora: GGUFFile | None = None, gpu_layers: int = 0):
        from vicuna.answer.llama_cpp_context import LlamaContext
        from vicuna.gguf.library import load_llama_cpp

        self.api = load_llama_cpp()
        kind = self.api.GGML_TYPE_F32
        adapters = {"adapter": lora} if lora else {}
        more = {"logits_all": True, "type_k": kind, "type_v": kind, "n_gpu_layers": gpu_layers}
        self.loaded = LlamaContext(file, context, adapters, **more)
        self.adapter = next(iter(adapters), "")

    def size_bytes(self) -> int:
        return self.api.llama_model_size(self.loaded.llama.model)

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        with self.loaded.using(self.adapter) as llama:
            llama.reset()
            llama.eval(list(ids))
            return torch.from_numpy(llama.scores[: len(ids)].copy())
