"""What ``jobbus doctor`` looks at in a Redis server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from jobbus.cli.findings import Finding, doubtful, failed, fine

if TYPE_CHECKING:
    from jobbus.settings import Settings

_NEARLY_FULL: Final = 0.8


async def check_redis(settings: Settings) -> list[Finding]:
    """The server: its version, what it keeps, its memory, its replicas. Changes nothing."""
    from jobbus.backends.redis_store.connection import Link, too_old
    from jobbus.backends.redis_store.options import RedisOptions

    options = RedisOptions.from_settings(settings)
    info = await Link(options).ask()
    found = [fine("backend", f"{options.location} answers")]
    version = f"Redis {info.get('redis_version')}"
    if too_old(info):
        found.append(failed("version", f"{version} is too old", "upgrade to 6.2 or newer"))
    else:
        found.append(fine("version", version))
    return [
        *found,
        *_durability(info, allowed=options.allow_volatile),
        _memory(info),
        _replicas(info),
    ]


def _durability(info: Mapping[str, Any], *, allowed: bool) -> Iterator[Finding]:
    from jobbus.backends.redis_store.connection import losses

    problems = losses(info)
    for problem in problems:
        yield (doubtful if allowed else failed)("durability", problem)
    if not problems:
        yield fine("durability", "append-only file, nothing is evicted")


def _memory(info: Mapping[str, Any]) -> Finding:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return fine("memory", f"{used / 1e6:.0f} MB used, no limit set")
    told = f"{used / 1e6:.0f} of {limit / 1e6:.0f} MB used"
    if used > _NEARLY_FULL * limit:
        return doubtful("memory", told, "raise maxmemory, or keep fewer ended jobs")
    return fine("memory", told)


def _replicas(info: Mapping[str, Any]) -> Finding:
    if info.get("role") != "master":
        return failed("role", "this server is a replica", "name the primary, or its sentinels")
    number = int(info.get("connected_slaves", 0))
    if number:
        return fine("replicas", f"{number} connected; a failover may lose the last writes")
    return fine("replicas", "none")
