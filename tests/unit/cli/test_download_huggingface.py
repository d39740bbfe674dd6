"""What a hub may answer that is not as its library expects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from cli.download import huggingface
from cli.download.source import Reference
from cli.errors import Failure

COMMIT = "0" * 40


def info(**file: Any) -> SimpleNamespace:
    sibling = {"rfilename": "a.json", "size": 1, "lfs": None, "blob_id": COMMIT} | file
    return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(**sibling)], card_data=None)


@pytest.mark.parametrize(
    "answer",
    [
        info(size=-1),
        info(size="1"),
        info(size=1.5),
        info(size=True),
        info(rfilename=None),
        info(rfilename=["a"]),
        KeyError("rfilename"),
        TypeError("int"),
        AttributeError("get"),
        RecursionError(),
        ValueError(),
    ],
    ids=repr,
)
def test_an_odd_answer_of_a_hub_is_said_in_a_line(
    answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model_info(*_: object, **__: object) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(Failure) as caught:
        huggingface.resolve(Reference(scheme="hf", rest="owner/name"))
    assert caught.value.message.startswith("owner/name: ")
    assert "\n" not in caught.value.message
