"""A TLS end in front of the edge that writes down what passes, both ways, in the clear.

python recording_proxy.py PORT EDGE_PORT KEYS FOLDER
"""

import asyncio
import itertools
import ssl
import sys
from pathlib import Path

PORT, EDGE_PORT, KEYS, FOLDER = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
COUNTER = itertools.count()


async def pipe(reader, writer, path):
    with path.open("ab") as record:
        while content := await reader.read(65536):
            record.write(content)
            record.flush()
            writer.write(content)
            await writer.drain()
    writer.close()


async def serve(reader, writer):
    number = next(COUNTER)
    trust = ssl.create_default_context(cafile=str(KEYS / "ca.crt"))
    edge_reader, edge_writer = await asyncio.open_connection("localhost", EDGE_PORT, ssl=trust)
    folder = Path(FOLDER)
    await asyncio.gather(
        pipe(reader, edge_writer, folder / f"{number:05d}.requests"),
        pipe(edge_reader, writer, folder / f"{number:05d}.answers"),
        return_exceptions=True,
    )


async def main():
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    own.load_cert_chain(KEYS / "server.crt", KEYS / "server.key")
    server = await asyncio.start_server(serve, "127.0.0.1", PORT, ssl=own)
    async with server:
        await server.serve_forever()


asyncio.run(main())
