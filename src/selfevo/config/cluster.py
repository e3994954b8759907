"""The section `cluster`: where the workers of `engine.workers` run."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from selfevo.config.base import Positive, Strict


class ClusterConfig(Strict):
    """A cluster of Ray, for engine.workers: docs/guides/ray.md."""

    address: str = Field(
        "local",
        description="local: a cluster on this machine that ends with the command; auto: the one that runs here; or "
        "host:port of its head",
    )
    num_cpus: Positive = Field(1, description="CPU cores, and threads, of each worker")
    num_gpus: float | None = Field(
        None,
        ge=0,
        description="GPUs of each worker; default: where the cluster has any, one, or engine.tensor_parallel_size",
    )
    py_executable: str | None = Field(
        None, description="the Python of the workers, such as that of vLLM's own environment; default: this one"
    )
    timeout_seconds: float = Field(
        60, gt=0, description="how long to wait for a first worker; more where nodes are started on demand"
    )

    @field_validator("address")
    @classmethod
    def _an_address(cls, value: str) -> str:
        if value.startswith("ray://"):
            raise ValueError(
                f"{value!r} is an address for Ray's client, which is not supported; start selfevo on a node of the "
                "cluster, and give auto"
            )
        host, _, port = value.rpartition(":")
        known = value in ("local", "auto")
        if not known and not (re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", host) and _is_port(port)):
            raise ValueError(f"{value!r} is no address; give local, auto, or host:port such as 10.0.0.1:6379")
        return value


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 2**16
