"""Who this worker process is, and whether another one on this machine is provably dead."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RELAY: Final = "relay/"
"""In front of the names of processes that are no workers; no host's name has a slash in it."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told apart from any other that ever had or will have its number."""

    name: str
    host: str
    space: str
    """Boot and process-number namespace; empty where the system cannot say."""
    pid: int
    birth: str
    """When the process started, in the system's own ticks."""

    @classmethod
    def current(cls) -> ProcessIdentity:
        pid = os.getpid()
        host = socket.gethostname()
        # Random, because a restarted container has its predecessor's host name and number.
        name = f"{host}:{pid}:{secrets.token_hex(4)}"
        return cls(name, host, _space(), pid, _birth(pid) or "")


def provably_dead(space: str, pid: int, birth: str) -> bool:
    """Whether that process is gone for certain: same machine, same boot, same namespace."""
    if not space or not birth or space != _space():
        return False
    return _birth(pid) != birth


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _birth(pid: int) -> str | None:
    """The 22nd field of proc(5)'s stat: the start time. A zombie counts as gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]
