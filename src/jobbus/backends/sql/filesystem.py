"""Keeps SQLite off network file systems, where its locks do not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jobbus.errors import ConfigurationError

NETWORK: Final = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs",
        "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb3",
        "smbfs", "vboxsf",
    }
)  # fmt: skip


def refuse_network(path: Path, mounts: Path = Path("/proc/self/mounts")) -> None:
    """Raise ConfigurationError when ``path`` lies on a file system shared over a network.

    SQLite's write-ahead log needs memory shared by all its users, so they must be on one host
    (sqlite.org/wal.html, "Disadvantages"). Where the system lists no mounts nothing is refused.
    """
    kind = _kind_of(path, mounts)
    if kind in NETWORK:
        raise ConfigurationError(
            f"{path} lies on a network file system ({kind}), where SQLite's locks do not hold: put "
            "the file on a local disk, use Postgres, or set "
            "BACKGROUND_JOBS__SQLITE__ALLOW_NETWORK_FILESYSTEM=true if you know better"
        )


def _kind_of(path: Path, mounts: Path) -> str | None:
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    target = path.resolve()
    best: tuple[int, str | None] = (-1, None)
    for line in lines:
        _device, point, kind, *_ = line.split(" ")
        place = Path(point.replace("\\040", " "))
        if target.is_relative_to(place) and len(place.parts) >= best[0]:
            best = (len(place.parts), kind)
    return best[1]
