"""The files of the page name each other, and nobody else."""

import re

import pytest

from api.page.serve import FILES


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_names_only_files_that_are_there(name: str) -> None:
    text = FILES[name].content.decode()
    named = re.findall(r'(?:from "\./|"page/)([a-z_.]+)"', text)
    assert set(named) <= set(FILES)
    foreign = re.findall(r"https?://[^\s\"'`<]+", text)
    assert set(foreign) <= {"http://www.w3.org/2000/svg"}
