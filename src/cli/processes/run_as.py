"""The user that PostgreSQL runs as: postgres refuses root, so root's stack takes another user.

That is the owner of the data folder, `nobody` where there is none yet. An ordinary user's stack
runs PostgreSQL as that user.

`nobody` cannot walk into a clone below a closed folder such as /root. There the child keeps one
single capability, CAP_DAC_READ_SEARCH (enter and read); a container's root often lacks that one and
gives CAP_DAC_OVERRIDE. Tried instead: a user namespace (forbidden in most containers), and copies
of binaries and data elsewhere (a second place to explain and to clean).
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cli.errors import StackError

NOBODY = 65534

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 0, 1, 2
CAP_SETGID, CAP_SETUID, CAP_SETPCAP = 6, 7, 8


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A user for a child, and the capability that it keeps to reach its files."""

    uid: int
    gid: int
    capability: int | None = None

    def __str__(self) -> str:
        """As exec_child.py reads it."""
        return f"{self.uid}:{self.gid}:{'' if self.capability is None else self.capability}"


def for_database(binary: Path, data: Path) -> Identity | None:
    """The identity for a database in `data`, None where we may run it as ourselves."""
    if os.geteuid() != 0:
        return None
    owner = data.stat() if data.exists() else None
    uid, gid = (owner.st_uid, owner.st_gid) if owner and owner.st_uid else (NOBODY, NOBODY)
    capability = None if _open_to_all(binary) and _open_to_all(data) else _capability_to_read()
    _require(CAP_SETUID, CAP_SETGID, CAP_CHOWN)
    return Identity(uid=uid, gid=gid, capability=capability)


def _open_to_all(path: Path) -> bool:
    folders = path.resolve().parents
    return all(folder.stat().st_mode & 0o001 for folder in folders if folder.exists())


def _capability_to_read() -> int:
    _require(CAP_SETPCAP)
    capability = CAP_DAC_READ_SEARCH if _have(CAP_DAC_READ_SEARCH) else CAP_DAC_OVERRIDE
    _require(capability)
    return capability


def _require(*capabilities: int) -> None:
    if not all(map(_have, capabilities)):
        raise StackError(
            "PostgreSQL does not run as root, and this root may not become another user: run "
            "dreamforge as an ordinary user, or set DF_DATABASE_URL to a database that is there"
        )


def _have(capability: int) -> bool:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> capability & 1)
    return False
