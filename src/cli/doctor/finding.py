"""What a check of the doctor returns. A check never raises: what it cannot read is a finding."""

from dataclasses import dataclass
from enum import Enum
from functools import partial


class Level(Enum):
    OK = "ok"
    NOTE = "note"
    WRONG = "WRONG"


@dataclass(frozen=True)
class Finding:
    level: Level
    subject: str
    text: str
    advice: str = ""


ok = partial(Finding, Level.OK)
note = partial(Finding, Level.NOTE)
wrong = partial(Finding, Level.WRONG)
