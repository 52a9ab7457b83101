"""The same database address with another name or place in it."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlencode, urlsplit


def with_database(url: str, name: str) -> str:
    """The same server and user, another database."""
    return urlsplit(url)._replace(path=f"/{quote(name, safe='')}").geturl()


def with_place(url: str, host: str, port: int) -> str:
    """The same user and database at another host and port."""
    parts = urlsplit(url)
    user, mark, _ = parts.netloc.rpartition("@")
    # Socket folders and lists of hosts stand in the query.
    rest = [pair for pair in parse_qsl(parts.query) if pair[0] not in {"host", "port"}]
    query = urlencode(rest, quote_via=quote)
    return parts._replace(netloc=f"{user}{mark}{host}:{port}", query=query).geturl()
