"""What a prompt says and a model does not do."""

from __future__ import annotations

from typing import Any

import pytest

from runner.diffusion.prompts import find_tags
from shared.protocol.messages import GenerateParams


def params(**fields: Any) -> GenerateParams:
    usual = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1, "guidance": 7.5}
    return GenerateParams.model_validate(usual | fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": "a cat <lora:secret-name:0.8>, <LyCO:x>"}, [("prompt", 2)]),
        ({"negative_prompt": "<hypernet:x:1>"}, [("negative_prompt", 1)]),
        ({"prompt": "a <b> c, 1 < 2 > 0, <lora>, <lora:>, lora:x"}, []),
        ({"prompt": "<lora:" * 600}, []),
    ],
)
def test_tags_of_other_programs_are_said_to_add_nothing(
    fields: dict[str, str], said: list[tuple[str, int]]
) -> None:
    logs = find_tags(params(**fields))
    for log, (field, count) in zip(logs, said, strict=True):
        assert log.message.startswith(f"{field}: ")
        assert f"({count} here)" in log.message
    assert not any("secret-name" in log.message for log in logs)  # it is in the worker's log too
