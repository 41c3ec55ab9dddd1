"""Broadcast trees: states of links, which of two ways stays, what is asked for when."""

from __future__ import annotations

import random
from collections import deque

from mesh.plumtree import (
    AGAIN_S,
    AUTHOR,
    BUS,
    GRACE_S,
    RELAY,
    TRIES,
    Overdue,
    Trees,
)

OWN, S = 1, 7


def trees(*links: str, limit: int = 100) -> Trees:
    found = Trees(OWN, limit)
    for link in links:
        found.up(link)
    return found


def test_a_link_is_eager_until_it_is_pruned_and_again_when_it_is_grafted() -> None:
    t = trees("a")
    assert t.eager("a", S)
    t.prune("a", [S])
    assert not t.eager("a", S)
    assert t.eager("a", S + 1), "another session has another tree"
    t.graft("a", [S])
    assert t.eager("a", S)
    t.prune("a", [S])
    t.up("a")
    assert t.eager("a", S), "a new link starts anew"
    assert not t.eager("nobody", S)
    t.prune("nobody", [S])
    t.graft("nobody", [S])
    assert not t.eager("nobody", S)


def test_a_frame_is_pushed_on_once_and_not_back() -> None:
    t = trees("a", "b")
    t.fresh((0, S, 1), "a", RELAY)
    assert t.take((0, S, 1)) == "a"
    assert t.take((0, S, 1)) is None
    assert t.take((0, S, 2)) is None, "what came by repair is not pushed on"


def test_the_later_of_two_relays_is_pruned_once() -> None:
    t = trees("a", "b")
    t.fresh((0, S, 1), "a", RELAY)
    assert t.again(S, "b", RELAY) == "b"
    assert t.again(S, "b", RELAY) is None, "it was told"
    assert t.again(S, "a", RELAY) is None, "by which it comes"


def test_a_frame_that_left_before_the_prune_came_does_not_turn_the_tree_over() -> None:
    """Else both ways would be pruned."""
    t = trees("a", "b")
    t.fresh((0, S, 1), "a", RELAY)
    assert t.again(S, "b", RELAY) == "b"
    t.fresh((0, S, 2), "b", RELAY)
    assert t.again(S, "a", RELAY) is None


def test_the_authors_link_and_the_bus_are_better_than_who_was_faster() -> None:
    t = trees("a", "author")
    t.fresh((0, S, 1), "a", RELAY)
    assert t.again(S, "author", AUTHOR) == "a"
    assert t.again(S, "@bus", BUS) == "author"
    assert t.again(S, "@bus", BUS) is None, "the bus can't be pruned"
    t.fresh((0, S, 2), "@bus", BUS)
    assert t.again(S, "@bus", BUS) is None


def test_the_bus_prunes_who_was_faster_than_it() -> None:
    t = trees("author")
    t.fresh((0, S, 1), "@bus", BUS)
    t.fresh((0, S, 2), "author", AUTHOR)
    assert t.again(S, "@bus", BUS) == "author"


def test_who_served_what_nobody_pushed_is_grafted() -> None:
    """Else the next frame would have to be found missing, too."""
    t = trees("a", "b")
    assert t.repaired(S, "a", RELAY), "no way is known"
    assert not t.repaired(S, "b", RELAY), "one is"
    assert t.again(S, "b", RELAY) == "b"
    assert t.repaired(S, "b", RELAY), "the way there was brought nothing"
    assert t.again(S, "a", RELAY) == "a"
    assert not t.repaired(S, "nobody", RELAY)


def test_own_frames_that_come_back_prune_whoever_sends_them() -> None:
    t = trees("a")
    assert t.again(OWN, "a", RELAY) == "a"
    assert t.again(OWN, "a", RELAY) is None


def test_who_loses_the_way_a_session_comes_by_is_told_which() -> None:
    t = trees("a", "b")
    t.fresh((0, S, 1), "a", RELAY)
    t.fresh((0, S + 1, 1), "b", RELAY)
    assert t.again(S, "b", RELAY) == "b"
    assert t.down("a") == [S]
    t.regraft("b", S)
    t.fresh((0, S, 2), "b", RELAY)
    t.up("a")
    assert t.again(S, "a", RELAY) == "a", "the tree has grown anew"
    t.fresh((0, 9, 1), "@bus", BUS)
    assert t.bus_down("@bus") == [9]
    assert t.bus_down("@bus") == []


def test_what_was_announced_is_asked_for_after_a_grace_from_one_after_the_other() -> None:
    t = trees("a", "b")
    t.announced(0, S, 5, "a", 10.0)
    t.announced(0, S, 6, "b", 10.1)
    t.announced(0, S, 4, "b", 10.1)

    def lacking(shard: int, session: int, seq: int) -> bool:
        return False

    assert t.overdue(lacking, 10.0 + GRACE_S / 2) == []
    assert t.overdue(lacking, 10.0 + GRACE_S) == [Overdue("a", 0, S, 6)]
    assert t.overdue(lacking, 10.0 + GRACE_S) == [], "once"
    assert t.overdue(lacking, 10.0 + GRACE_S + AGAIN_S) == [Overdue("b", 0, S, 6)]
    asked = [t.overdue(lacking, 100.0 + turn) for turn in range(TRIES)]
    assert sum(map(len, asked)) == TRIES - 2, "then it is left to anti-entropy"
    t.announced(0, S, 5, "a", 200.0)
    assert t.overdue(lambda *_: True, 201.0) == [], "it came"
    assert t.overdue(lacking, 201.0) == []


def test_all_state_is_bounded_and_what_is_forgotten_is_eager() -> None:
    t = trees("a", limit=3)
    for session in range(10, 20):
        t.fresh((0, session, 1), "a", RELAY)
        t.prune("a", [session])
    assert [t.eager("a", session) for session in range(15, 20)] == [True, True, False, False, False]
    assert len(t._parents) == 3
    for seq in range(70_000):
        t.announced(0, 100 + seq, 1, "a", 0.0)
        t.fresh((0, S, seq), "a", RELAY)
    assert len(t._lacks) == len(t._arrived) == 65_536


class Overlay:
    """Replicas joined at random; messages arrive in any order over different links."""

    def __init__(self, size: int, degree: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.links: dict[str, list[str]] = {f"r{one}": [] for one in range(size)}
        names = list(self.links)
        for name in names:
            for other in self.random.sample([one for one in names if one != name], degree):
                if other not in self.links[name]:
                    self.links[name].append(other)
                    self.links[other].append(name)
        self.author = names[0]
        self.trees = {
            name: trees(*self.links[name]) if name != self.author else Trees(S, 100)
            for name in names
        }
        for other in self.links[self.author]:
            self.trees[self.author].up(other)

    def send(self, seq: int) -> tuple[int, set[str]]:
        """How often it was sent, and who has it."""
        have, sends = {self.author}, 0
        ways: dict[tuple[str, str], deque[str]] = {}

        def push(name: str, but: str) -> int:
            targets = [
                other
                for other in self.links[name]
                if other not in (but, self.author) and self.trees[name].eager(other, S)
            ]
            for other in targets:
                ways.setdefault((name, other), deque()).append("frame")
            return len(targets)

        sends += push(self.author, "")
        while ways:
            way = self.random.choice(sorted(ways))
            what = ways[way].popleft()
            if not ways[way]:
                del ways[way]
            sender, receiver = way
            tree = self.trees[receiver]
            if what == "prune":
                tree.prune(sender, [S])
                continue
            rank = AUTHOR if sender == self.author else RELAY
            if receiver not in have:
                have.add(receiver)
                tree.fresh((0, S, seq), sender, rank)
                sends += push(receiver, tree.take((0, S, seq)) or "")
            elif (needless := tree.again(S, sender, rank)) is not None:
                ways.setdefault((receiver, needless), deque()).append("prune")
        return sends, have


def test_whatever_the_order_every_frame_reaches_all_and_the_tree_gets_thin() -> None:
    for seed in range(60):
        overlay = Overlay(size=40, degree=3, seed=seed)
        found = [overlay.send(seq) for seq in range(8)]
        assert all(len(have) == 40 for _, have in found), f"seed {seed}"
        assert found[-1][0] == 39, f"seed {seed}: each got it once, after {found}"
