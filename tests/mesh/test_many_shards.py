"""A mesh of very many shards: comparing them takes turns, so that no link has too much to say."""

from __future__ import annotations

from tests.mesh.world import Note, World, converged, running

SHARDS = 1_024
NOTES = 3_000


async def test_all_shards_of_a_large_mesh_are_caught_up() -> None:
    world = World(shards=SHARDS)
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a):
        for number in range(NOTES):
            with a.edit(Note, str(number)) as note:
                note.text = "x"
        await a.flush()
        async with running(b):
            await converged(a, b)
        assert not world.probes["a"].counts["link.deaf"]
        assert not world.probes["b"].counts["link.deaf"]
