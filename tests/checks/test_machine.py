"""Machines that are described: what is understood, and what is one line."""

from __future__ import annotations

import pytest

from selfevo.checks.machine import parse_machine
from selfevo.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "nodes", "per_node", "said"),
    [
        ("8 x H100 80GB", 1, 8, "8 x H100 80GB"),
        ("2 nodes x 8 x H100 80GB", 2, 8, "2 nodes x 8 x H100 80GB"),
        ("2 nodes of 8 x A100 40GB", 2, 8, "2 nodes x 8 x A100 40GB"),
        ("1 node x 4 × h200", 1, 4, "4 x H200 141GB"),
        ("H100", 1, 1, "1 x H100 80GB"),
        ("8xh100-80gb", 1, 8, "8 x H100 80GB"),
        ("4 * NVIDIA A100 80 GiB", 1, 4, "4 x A100 80GB"),
        ("2 x RTX 4090 24GB", 1, 2, "2 x RTX4090 24GB"),
        ("  16 x L40S ", 1, 16, "16 x L40S 48GB"),
        ("4 x Mine 96GB 400TFLOPS 2.5TB/s", 1, 4, "4 x Mine 96GB"),
        ("3 nodes x 2 x My Card 96GB 400 tflops 2 TB/s", 3, 2, "3 nodes x 2 x My Card 96GB"),
    ],
)
def test_a_machine_is_read(text: str, nodes: int, per_node: int, said: str) -> None:
    machine = parse_machine(text)
    assert (machine.nodes, machine.per_node, str(machine)) == (nodes, per_node, said)


def test_a_card_that_is_given_has_its_own_figures() -> None:
    card = parse_machine("Mine 96GB 400TFLOPS 2.5TB/s").card
    assert (card.gib, card.flops, card.bandwidth) == (96, 400e12, 2.5e12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8 x H900 80GB", "'H900' is no known card; known are A10,"),
        ("2 nodes x 8", "is no machine; describe it as in"),
        ("", "is no machine"),
        ("8", "is no machine"),
        ("x H100", "no known card"),
        ("eight H100", "no known card"),
        ("-1 x H100", "is no machine"),
        ("1.5 x H100", "is no machine"),
        ("0 x H100", "has no device"),
        ("0 nodes x 8 x H100", "has no device"),
        ("8 x A100", "A100 comes with 40GB and 80GB; say which"),
        ("8 x H100 40GB", "H100 has 80 GB, not 40"),
        ("4 x Mine 400TFLOPS 2TB/s", "does not say how much memory"),
        ("4 x Mine 96GB 400TFLOPS", "is no machine"),
        ("8 x H100 80GB\n", ""),
        ("8 x H100 80TB", "no known card"),
        ("999999999 x H100", "is no machine"),
    ],
)
def test_what_is_no_machine_is_one_line(text: str, message: str) -> None:
    if not message:
        assert parse_machine(text).devices == 8
        return
    with pytest.raises(ConfigError, match="--plan") as error:
        parse_machine(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
