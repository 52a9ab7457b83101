"""Addresses of backends: what a URL or connection string says, and how it is shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from jobbus.errors import ConfigurationError
from jobbus.settings.names import known_provider, squash

SCHEMES: Final = {"rediss": "redis", "amqp": "rabbitmq", "amqps": "rabbitmq"}
SECRET_WORDS: Final = ("secret", "password", "passwd", "pwd", "token", "key", "credential")
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
MASK: Final = "***"
LOCAL_REDIS: Final = "redis://localhost:6379/0"
"""Where the Redis of the provider is if nothing says so."""

_LIBPQ_NAMES: Final = {
    "server": "host",
    "database": "dbname",
    "db": "dbname",
    "username": "user",
    "userid": "user",
    "uid": "user",
    "pwd": "password",
    "timeout": "connect_timeout",
    "applicationname": "application_name",
}
"""Words of .NET connection strings, squashed, as libpq says them."""
_SSL_MODES: Final = {"verifyca": "verify-ca", "verifyfull": "verify-full"}
_PAIR: Final = re.compile(r"\s*([\w ]+?)\s*=\s*('(?:\\.|[^'\\])*'|\"[^\"]*\"|[^\s;]*)\s*;?")
_PAIR_TO_SEMICOLON: Final = re.compile(r"\s*([\w ]+?)\s*=\s*('[^']*'|\"[^\"]*\"|[^;]*)\s*;?")
_USER_AND_PASSWORD: Final = re.compile(r"(://[^:/?#@\s]*:)\S*@")
_SECRET_PAIR: Final = re.compile(
    rf"(\w*(?:{'|'.join(SECRET_WORDS)})\w*\s*=\s*)('(?:\\.|[^'\\])*'|\"[^\"]*\"|[^;&\s]+)",
    re.IGNORECASE,
)
_SHARED_ACCESS_SIGNATURE: Final = re.compile(r"(SharedAccessSignature\s*=\s*)[^;]+", re.IGNORECASE)
"""Of an Azure connection string: its value has blanks and further pairs in it."""
_SERVICE_BUS: Final = re.compile(r"Endpoint\s*=\s*sb://", re.IGNORECASE)


def read_backend(text: str) -> dict[str, str]:
    """The settings that a backend's URL, or its mere name, stands for, by key.

    A connection string of Service Bus is as good as a URL. Raises ValueError, without repeating any
    password, for what is neither.
    """
    if _SERVICE_BUS.match(text.strip()):
        provider = "azure_service_bus"
        return {"provider": provider, f"{provider}.connection_string": text.strip()}
    scheme, mark, rest = text.strip().partition("://")
    protocol = scheme.partition("+")[0]
    provider = SCHEMES.get(protocol.casefold()) or protocol
    if not mark:
        if re.fullmatch(r"[\w .-]+", scheme) is None:
            raise ValueError("must be a provider's name or an address such as sqlite:///jobs.db")
        return {"provider": scheme}
    match known_provider(provider):
        case "memory":
            if rest.strip("/"):
                raise ValueError("a memory backend has no address: write memory://")
            return {"provider": "memory"}
        case "sqlite":
            return {"provider": "sqlite", **_read_sqlite(rest)}
        case "postgres":
            return {"provider": "postgres", "postgres.url": postgres_url(text)}
        case "aws_sqs":
            return {"provider": "aws_sqs", **_read_sqs(scheme, rest)}
        case known:
            return {"provider": known or provider, f"{known or provider}.url": text.strip()}


def _read_sqlite(rest: str) -> dict[str, str]:
    path, _, query = rest.partition("?")
    if path and not path.startswith("/"):
        raise ValueError(
            "a SQLite URL has three slashes before a relative path, as in sqlite:///jobs.db, and "
            "four before an absolute one"
        )
    options = {f"sqlite.{name}": value for name, value in parse_qsl(query, keep_blank_values=True)}
    return {**({"sqlite.path": unquote(path[1:])} if path[1:] else {}), **options}


def _read_sqs(scheme: str, rest: str) -> dict[str, str]:
    place, _, query = rest.partition("?")
    options = {f"aws_sqs.{name}": value for name, value in parse_qsl(query, keep_blank_values=True)}
    if not place.strip("/"):
        return options
    host = urlsplit(f"//{place}").hostname or ""
    plain = scheme.endswith("+http") or host in LOOPBACK
    return {"aws_sqs.queue_url": f"{'http' if plain else 'https'}://{place}", **options}


def queue_address(text: str) -> str:
    """A plain http or https URL. Raises ValueError, without repeating any password, for another."""
    text = text.strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "must be a URL such as https://sqs.us-west-2.amazonaws.com/123456789012/jobs"
        )
    if parts.username or parts.password or parts.query:
        raise ValueError(
            "must be a URL without credentials or a query: boto3 finds credentials by itself"
        )
    return text


def postgres_url(text: str) -> str:
    """A ``postgresql://`` URL of a URL, or of a connection string of libpq's or .NET's.

    Raises ValueError, without repeating any password, for anything else.
    """
    text = text.strip()
    scheme, mark, rest = text.partition("://")
    if mark and re.fullmatch(r"postgres(ql)?(\+\w+)?", scheme, re.IGNORECASE):
        return f"postgresql://{rest}"
    if mark or "=" not in text:
        raise ValueError(
            "must be a Postgres address such as postgresql://user@host:5432/database; "
            "what was given has no postgresql:// in front"
        )
    return _url_of(_pairs(text))


def redis_address(given: Mapping[str, Any]) -> str | None:
    """What the settings under ``redis`` say, whole or in parts; None when they say nothing.

    Raises ConfigurationError where they say it twice, or no number where one belongs.
    """
    parts = {name: str(given[name]) for name in ("host", "port", "password", "db") if name in given}
    if "url" in given:
        if parts:
            raise ConfigurationError(
                f"redis.url and redis.{next(iter(parts))} are both set; the address says it all"
            )
        return str(given["url"]).strip()
    if not parts:
        return None
    for name in ("port", "db"):
        if name in parts and not parts[name].strip().isdigit():
            raise ConfigurationError(f"redis.{name} must be a number, not {parts[name]!r}")
    secret = f":{quote(parts['password'], safe='')}@" if parts.get("password") else ""
    host, port = parts.get("host", "localhost").strip(), parts.get("port", "6379").strip()
    host = f"[{host}]" if ":" in host else host
    return f"redis://{secret}{host}:{port}/{parts.get('db', '0').strip()}"


def _pairs(text: str) -> dict[str, str]:
    pair = _PAIR_TO_SEMICOLON if ";" in text else _PAIR
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = pair.match(text, position)
        if match is None or match.end() == position:
            raise ValueError(f"is no connection string from its character {position + 1} on")
        name, value = match.group(1).casefold(), match.group(2).strip()
        if value[:1] in {"'", '"'}:
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        found[_LIBPQ_NAMES.get(squash(name), name.replace(" ", ""))] = value
        position = match.end()
    if "sslmode" in found:
        mode = found["sslmode"].casefold()
        found["sslmode"] = _SSL_MODES.get(squash(mode), mode)
    return found


def _url_of(pairs: dict[str, str]) -> str:
    user = quote(pairs.pop("user", ""), safe="")
    if "password" in pairs:
        user += ":" + quote(pairs.pop("password"), safe="")
    place = ""
    # Socket directories, IPv6 addresses and lists of hosts fit only the query part.
    if re.fullmatch(r"[\w.-]+", pairs.get("host", "")):
        place = pairs.pop("host")
        if pairs.get("port", "").isdigit():
            place += ":" + pairs.pop("port")
    database = quote(pairs.pop("dbname", ""), safe="")
    query = "?" + urlencode(pairs) if pairs else ""
    return f"postgresql://{user}{'@' if user else ''}{place}/{database}{query}"


def is_secret(key: str) -> bool:
    """Whether a setting's name says that its value is not to be shown."""
    return any(word in squash(key.rpartition(".")[2]) for word in SECRET_WORDS)


def mask(text: str) -> str:
    """The text without the passwords of URLs and connection strings in it."""
    text = _SHARED_ACCESS_SIGNATURE.sub(rf"\g<1>{MASK}", text)
    return _SECRET_PAIR.sub(rf"\g<1>{MASK}", _USER_AND_PASSWORD.sub(rf"\g<1>{MASK}@", text))


def shown(key: str, value: object) -> str:
    """A setting's value as text for people, secrets masked."""
    if value is None:
        return ""
    if is_secret(key):
        return MASK
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, tuple | list):
        return ", ".join(mask(str(item)) for item in value)
    return mask(str(value))
