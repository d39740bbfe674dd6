"""Where settings come from: a blank value leaves the word to the next source, and at last to the
default."""

from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from shared.environment import without_blanks


class WithoutBlanks(PydanticBaseSettingsSource):
    """Another source, without its blank values."""

    def __init__(self, source: PydanticBaseSettingsSource) -> None:
        super().__init__(source.settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        return without_blanks(self._source())
