"""Generation with vLLM, offline. Its prefix caching computes the common start of conversations once.

vLLM runs in its own process, one per model. The process ends when another model is asked for, or
when training needs the memory. This is the only way of changing weights that frees all memory. vLLM
gets token ids, so the chat template and control tokens are handled as everywhere else.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from selfevo.errors import EngineError, EngineLostError, MissingExtraError
from selfevo.method.protocols import Finish, Generation, Request, Sampling
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer
from selfevo.models.threads import sharing_processors
from selfevo.rundir.adapter_folder import is_adapter, read_adapter, weights_folder


@dataclass(slots=True)
class VLLMEngine:
    """Generates with vLLM. `dtype` as in vLLM.

    `gpu_memory_utilization` is a share of the device's memory. `kv_cache_gib` applies on a CPU.
    `tensor_parallel_size` is the number of devices that share the weights.
    """

    batch_size: int = 512
    dtype: str = "auto"
    gpu_memory_utilization: float = 0.9
    kv_cache_gib: float = 2.0
    tensor_parallel_size: int = 1
    _path: Path | None = None
    _chat: Chat | None = None
    _room: int = 0  # size of the context in tokens
    _process: Any = None
    _pipe: Connection | None = None

    def __post_init__(self) -> None:
        if find_spec("vllm") is None:
            raise MissingExtraError(
                "engine.kind is vllm, which is not installed; it needs its own environment: "
                "pip install -r requirements-vllm.txt"
            )

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        chat = self._start(model)
        prompts = [chat.prompt(request.turns, request.system, self._room) for request in requests]
        results = [Generation("", "overlong", len(ids), 0) for ids in prompts]
        fitting = [i for i, ids in enumerate(prompts) if len(ids) + sampling.max_new_tokens <= self._room]
        written = self._call([prompts[i] for i in fitting], [requests[i].seed for i in fitting], sampling, chat.stop_id)
        for i, (tokens, reason) in zip(fitting, written, strict=True):
            text = chat.text(tokens)
            finish: Finish = "length" if reason == "length" else "stop" if text else "empty"
            results[i] = Generation(text, finish, len(prompts[i]), len(tokens))
        return results

    def release(self) -> None:
        if self._pipe is not None:
            self._pipe.close()  # the process ends when the pipe is closed
            self._process.join(timeout=30)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        self._pipe = self._process = self._path = self._chat = None

    def _start(self, path: Path) -> Chat:
        if self._path == path and self._chat is not None:
            return self._chat
        self.release()
        self._chat = Chat(load_tokenizer(path))
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(self.kv_cache_gib))))
        settings: dict[str, Any] = {"dtype": self.dtype, "gpu_memory_utilization": self.gpu_memory_utilization}
        if self.tensor_parallel_size > 1:  # one process a device, started by vLLM itself even on a Ray cluster
            settings |= {"tensor_parallel_size": self.tensor_parallel_size, "distributed_executor_backend": "mp"}
        if is_adapter(path):
            settings |= {"enable_lora": True, "max_lora_rank": lora_rank(path)}
        self._process = context.Process(target=_serve, args=(theirs, str(path), settings))
        with sharing_processors():
            self._process.start()
        theirs.close()
        self._room = self._receive(f"cannot load a model from {path}")
        self._path = path
        return self._chat

    def _call(
        self, prompts: list[list[int]], seeds: list[int], sampling: Sampling, stop: int
    ) -> list[tuple[list[int], str]]:
        assert self._pipe is not None
        if not prompts:
            return []
        self._pipe.send((prompts, seeds, sampling, stop))
        answers: list[tuple[list[int], str]] = self._receive("generation failed")
        return answers

    def _receive(self, trouble: str) -> Any:
        assert self._pipe is not None
        try:
            while not self._pipe.poll(1):
                if not self._process.is_alive():
                    raise EOFError
            answer = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self.release()
            raise EngineLostError(f"{trouble}: the process of vLLM ended; its messages are above") from error
        if isinstance(answer, EngineError):
            self.release()
            raise EngineError(f"{trouble}: {answer}")
        return answer


def lora_rank(path: Path) -> int:
    """The rank to tell vLLM, which knows a few. Raises EngineError for an adapter that vLLM cannot serve."""
    settings = read_adapter(path)
    rank = max([int(settings.get("r") or 0), *map(int, (settings.get("rank_pattern") or {}).values())])
    known = [size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank]
    kind = "use_dora" if settings.get("use_dora") else "modules_to_save" if settings.get("modules_to_save") else ""
    if kind or not known:
        raise EngineError(
            f"vLLM cannot serve the adapter {path} with {kind or f'rank {rank}'}; use engine.kind: transformers, or "
            "merge the adapter"
        )
    return known[0]


def _serve(pipe: Connection, path: str, settings: dict[str, Any]) -> None:
    """Runs in the subprocess: loads the model, then answers until the pipe is closed."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # no second subprocess: this one already is one, and we seed it
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        import torch
        from vllm import LLM, SamplingParams, TokensPrompt
        from vllm.platforms import current_platform

        base, lora = weights_folder(Path(path)), None
        if is_adapter(Path(path)):
            from vllm.lora.request import LoRARequest

            lora = LoRARequest("adapter", 1, path)
        model = LLM(str(base), enable_prefix_caching=True, disable_log_stats=True, trust_remote_code=False, **settings)
        pipe.send(int(model.llm_engine.model_config.max_model_len))
        # vLLM's CPU engine fails with a seed per request, so there a batch has one seed.
        seeded = not current_platform.is_cpu()
        while True:
            prompts, seeds, sampling, stop = pipe.recv()
            if not seeded:
                torch.manual_seed(seeds[0] % 2**63)
            parameters = [
                SamplingParams(
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    top_k=sampling.top_k,
                    min_p=sampling.min_p,
                    repetition_penalty=sampling.repetition_penalty,
                    max_tokens=sampling.max_new_tokens,
                    stop_token_ids=[stop],
                    seed=seed % 2**31 if seeded else None,
                    detokenize=False,
                )
                for seed in seeds
            ]
            outputs = model.generate(
                [TokensPrompt(prompt_token_ids=ids) for ids in prompts],
                parameters,
                use_tqdm=False,
                lora_request=lora,
            )
            answers = []
            for output in outputs:
                [written] = output.outputs
                tokens = [token for token in written.token_ids if token != stop]
                answers.append((tokens, str(written.finish_reason)))
            pipe.send(answers)
    except EOFError:
        pass
    except Exception as error:  # any error goes to the parent, which raises it
        pipe.send(EngineError(" ".join(f"{type(error).__name__}: {error}".split())[:500]))
