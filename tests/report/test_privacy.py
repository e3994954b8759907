"""What people share names no home folder and no user."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.report.privacy import shareable

RUN = Path("/home/alice/work/runs/my-run")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/alice/work/runs/my-run", "."),
        ("/home/alice/work/runs/my-run/data/pool.jsonl", "data/pool.jsonl"),
        ("/home/alice/work/data/pool.jsonl", "../../data/pool.jsonl"),
        ("/home/alice", "../../.."),
        ("/home/bob/models/m", "~/models/m"),
        ("/home/alice/../bob/m", "~/m"),
        ("/root/.cache/m", "~/.cache/m"),
        ("/Users/John Smith/m", "~/m"),
        ("/gpfs/home/carol/m", "~/m"),
        ("/data/users/carol/m", "~/m"),
        ("file:///home/bob/m", "~/m"),
        ("../../home/bob/m", "~/m"),
        ("C:\\Users\\bob\\m", "~\\m"),
        ("~/m", "~/m"),
        ("~bob/m", "~/m"),
        ("/data/m", "../../../../../data/m"),
        ("data/pool.jsonl", "data/pool.jsonl"),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("https://host/home/page", "https://host/home/page"),
        ("cannot read /home/bob/words.txt (line 3)", "cannot read ~/words.txt (line 3)"),
        ("see '/root/words.txt'", "see '~/words.txt'"),
        ("takes ~5 minutes", "takes ~5 minutes"),
    ],
)
def test_a_path_leads_through_no_home(text: str, shown: str) -> None:
    assert shareable(text, RUN) == shown
    assert shareable({"a": [{text: text}, 1, None]}, RUN) == {"a": [{shown: shown}, 1, None]}


USERS = st.text("abcdefghijklmnopqrstuvwxyz.-_0123456789", min_size=3, max_size=12).filter(
    lambda name: name.strip(".-_")
)


@given(
    st.sampled_from(["/home/{}", "/Users/{}", "/data/home/{}", "/data/users/{}", "C:\\Users\\{}"]),
    USERS.map(lambda name: f"zz{name}"),
    st.sampled_from(["", "/m", "/a b/c.jsonl", "/.cache/../x"]),
    st.sampled_from(["{}", "cannot read {}", "({}), line 3", "'{}'", "a {}:b", "../..{}", "file://{}"]),
    st.sampled_from(["/data/runs/r", "/home/alice/r", "/r"]),
)
def test_no_user_is_named(home: str, user: str, rest: str, text: str, run: str) -> None:
    assert user not in shareable(text.format(home.format(user) + rest), Path(run))


@given(st.text())
def test_any_text_is_shown(text: str) -> None:
    assert isinstance(shareable(text, RUN), str)
