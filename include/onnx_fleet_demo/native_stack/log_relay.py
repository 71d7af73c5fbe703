"""A worker's log server at the worker's own address.

Airflow's api-server asks every worker for its logs at the worker's host name and one and the same port. Log servers
listen on all addresses of their host, so workers that share one must have different ports. A relay listens at one
worker's address, and passes every connection on to the port of that worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Final, Self

_CHUNK_BYTES: Final = 1 << 16

Address = tuple[str, int]
"""A host and a port."""


class LogRelay:
    """A context manager: inside it, every connection to an address reaches another one."""

    def __init__(self, routes: Mapping[Address, Address]) -> None:
        """Prepare a relay.

        Args:
            routes: where to listen -> whom to connect with.
        """
        self._routes = dict(routes)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="log-relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._servers = [await asyncio.start_server(partial(_relay, to=to), *at) for at, to in self._routes.items()]

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        relays = asyncio.all_tasks() - {asyncio.current_task()}
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to: Address) -> None:
    with contextlib.closing(writer), contextlib.suppress(OSError):  # a worker that is down refuses
        far_reader, far_writer = await asyncio.open_connection(*to)
        with contextlib.closing(far_writer):
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()
