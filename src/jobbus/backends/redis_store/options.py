"""Where the Redis is, and how to talk to it: what settings and URLs say."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from jobbus.errors import ConfigurationError

if TYPE_CHECKING:
    from jobbus.settings import Settings

DEFAULT_PREFIX: Final = "jobbus"
SENTINEL_PORT: Final = 26379
_SCHEMES: Final = ("redis", "rediss", "redis+sentinel", "rediss+sentinel")
_NAMES: Final = {
    "url", "host", "port", "password", "db", "prefix", "allow_volatile", "max_connections",
    "timeout_seconds",
}  # fmt: skip
_TRUE: Final = {"true", "1", "yes", "on"}
_FALSE: Final = {"false", "0", "no", "off"}
_UNVERIFIED: Final = {"ssl_cert_reqs": {"none", "optional"}, "ssl_check_hostname": _FALSE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """Who knows which of several servers is the primary."""

    hosts: tuple[tuple[str, int], ...]
    service: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """An address and its circumstances. Raises ConfigurationError for what cannot be meant."""

    url: str = field(default="redis://localhost:6379/0", repr=False)
    prefix: str = DEFAULT_PREFIX
    """In front of every key, as its hash tag: all of a deployment lies in one slot of a cluster."""
    allow_volatile: bool = False
    """Go on where Redis writes nothing to disk, or may evict keys."""
    max_connections: int = 10
    timeout_seconds: float = 5.0
    """For any one answer."""

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in _SCHEMES:
            raise ConfigurationError(
                "redis.url must begin with redis://, rediss://, redis+sentinel:// or "
                "rediss+sentinel://"
            )
        _ = self.sentinels  # an address that names none is refused here
        if re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", self.prefix) is None:
            raise ConfigurationError(
                f"redis.prefix is 1 to 64 of the characters A-Z a-z 0-9 _ . : -, "
                f"not {self.prefix!r}"
            )
        if self.max_connections < 2 or not 0 < self.timeout_seconds <= 60:
            raise ConfigurationError(
                "redis.max_connections must be at least 2, since one listens, and "
                "redis.timeout_seconds above 0 and at most 60"
            )
        for name, value in parse_qsl(urlsplit(self.url).query):
            if value.casefold() in _UNVERIFIED.get(name.casefold(), ()):
                raise ConfigurationError(
                    f"redis.url says {name}={value}: jobbus talks TLS only to servers that prove "
                    "who they are; name their authority with ssl_ca_certs=/path/to/ca.pem"
                )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """What the settings say under ``redis``. Raises ConfigurationError."""
        given = settings.provider_options("redis")
        unknown = sorted(name for name in given if name.replace("_", "") not in _squashed(_NAMES))
        if unknown:
            raise ConfigurationError(
                f"redis has no setting {', '.join(unknown)}; it has {', '.join(sorted(_NAMES))}"
            )
        wanted: dict[str, Any] = {}
        if address := settings.redis_address:
            wanted["url"] = address
        if "prefix" in given:
            wanted["prefix"] = str(given["prefix"])
        if "allow_volatile" in given:
            wanted["allow_volatile"] = _switch(given["allow_volatile"])
        if "max_connections" in given:
            wanted["max_connections"] = int(_number("max_connections", given["max_connections"]))
        if "timeout_seconds" in given:
            wanted["timeout_seconds"] = _number("timeout_seconds", given["timeout_seconds"])
        return cls(**wanted)

    @property
    def secure(self) -> bool:
        return urlsplit(self.url).scheme.startswith("rediss")

    @property
    def location(self) -> str:
        """The address for people to read: without user, password and options."""
        parts = urlsplit(self.url)
        place = parts.netloc.rpartition("@")[2]
        inside = "" if self.prefix == DEFAULT_PREFIX else f" prefix {self.prefix}"
        return f"{parts.scheme}://{place}{parts.path}{inside}"

    @property
    def base(self) -> str:
        """What every key begins with."""
        return f"{{{self.prefix}}}:"

    @property
    def sentinels(self) -> Sentinels | None:
        """``redis+sentinel://host:port,host:port/service/db`` names sentinels."""
        parts = urlsplit(self.url)
        if not parts.scheme.endswith("+sentinel"):
            return None
        service, _, _ = parts.path.strip("/").partition("/")
        hosts = tuple(_host(one) for one in parts.netloc.rpartition("@")[2].split(",") if one)
        if not service or not hosts:
            raise ConfigurationError(
                "a Sentinel address names hosts and service: redis+sentinel://a:26379,b:26379/main"
            )
        return Sentinels(hosts=hosts, service=unquote(service))

    @property
    def plain_url(self) -> str:
        """A URL that the client library reads; of a Sentinel address, without the hosts."""
        parts = urlsplit(self.url)
        if self.sentinels is None:
            return self.url
        user, mark, _ = parts.netloc.rpartition("@")
        _, _, database = parts.path.strip("/").partition("/")
        return parts._replace(
            scheme=parts.scheme.partition("+")[0], netloc=f"{user}{mark}sentinel", path=database
        ).geturl()


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if re.search(r":\d+$", text) else (text, "", "")
    return host.strip("[]"), int(port or SENTINEL_PORT)


def _switch(value: object) -> bool:
    word = str(value).strip().casefold()
    if word not in _TRUE | _FALSE:
        raise ConfigurationError(f"redis.allow_volatile must be true or false, not {value!r}")
    return word in _TRUE


def _number(name: str, value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ConfigurationError(f"redis.{name} must be a number, not {value!r}") from None


def _squashed(names: set[str]) -> set[str]:
    return {name.replace("_", "") for name in names}
