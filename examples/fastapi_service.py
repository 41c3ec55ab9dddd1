"""A web service with a replica inside: every request is answered from memory.

    pip install "statemesh[examples]"
    python examples/fastapi_service.py service 8000

    curl -X PUT  localhost:8000/findings/7 -H 'content-type: application/json' -d '{"text": "…"}'
    curl -X POST localhost:8000/findings/7/votes
    curl localhost:8000/findings

Uvicorn ends the lifespan on SIGTERM, which closes the replica in order.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from crdt import Counter, Document, Register
from mesh import Backpressure, CallerError, Durability, Replica


class Finding(Document):
    """What agents found, and how many agree."""

    text: Register[str]
    votes: Counter


class Text(BaseModel):
    """What a client says."""

    text: str


def service(folder: str) -> FastAPI:
    """The application. One process has one replica: run uvicorn with one worker per folder."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Replica.open(folder) as replica:
            app.state.replica = replica
            yield

    app = FastAPI(lifespan=lifespan)

    def replica() -> Replica:
        found: Replica = app.state.replica
        return found

    @app.exception_handler(Backpressure)
    async def busy(_: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})

    @app.exception_handler(CallerError)
    async def refused(_: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    # `async def`, so that handlers run on the loop that the replica belongs to.
    @app.put("/findings/{name}")
    async def put(name: str, said: Text) -> dict[str, Any]:
        with replica().edit(Finding, name) as finding:
            finding.text = said.text
        # Answered once it would survive a crash of this process.
        result = await replica().flush(Durability.JOURNAL, timeout=5)
        return {"durable": str(result.level)}

    @app.post("/findings/{name}/votes")
    async def vote(name: str) -> dict[str, int]:
        if not replica().exists(Finding, name):
            raise HTTPException(404, f"there is no finding {name!r}")
        with replica().edit(Finding, name, type="finding.voted") as finding:
            finding.votes += 1
            return {"votes": finding.votes}

    @app.get("/findings")
    async def findings() -> dict[str, Any]:
        return {each.id: each.snapshot() for each in replica().documents(Finding)}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        found: dict[str, Any] = replica().status()
        return {"address": found["address"], "parts": found["health"]}

    return app


if __name__ == "__main__":
    uvicorn.run(service(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
