"""A line to a server that can be made to lose answers."""

from __future__ import annotations

import asyncio


class Cutting:
    """A line to a server that, when told to, passes a request on and hangs up on the answer."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rpartition(":")[2].partition("/")[0])
        self.swallow = False
        self.swallowed = 0

    async def __aenter__(self) -> Cutting:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _pass(self, near: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        far, to_far = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while request := await near.read(65536):
                to_far.write(request)
                answer = await far.read(65536)
                if self.swallow and b"EVALSHA" in request:
                    self.swallowed += 1
                    return
                out.write(answer)
                await out.drain()
        except ConnectionError:
            return
        finally:
            to_far.close()
            out.close()
