"""The checkers catch what is planted, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crdt import Decided, Document, Register
from crdt.access import Overlay, commit
from crdt.clock import HybridClock
from crdt.lattice import Shard
from crdt.operation import Transaction
from simulations import checkers
from simulations.checkers import Acknowledged, Decision, Evidence
from simulations.rehearsal.audit import FINAL
from simulations.rehearsal.verdict import Examined, weigh

ALICE, BOB = 1_000_001, 1_000_002


class Module(Document, name="Task"):
    title: Register[str]
    machine: Decided[dict[str, Any]]


class Frame:
    def __init__(self, session: int) -> None:
        self.shard = 0
        self.session = session


class Site:
    """One shard of one replica, and the transactions it saw."""

    def __init__(self, name: str, session: int) -> None:
        self.name = name
        self.session = session
        self.shard = Shard(b"key")
        self.seen: list[tuple[Frame, list[Transaction]]] = []
        self._now = 1_700_000_000_000

    def write(
        self, title: str | None = None, decided: tuple[int, dict[str, Any]] | None = None
    ) -> Transaction:
        self._now += 1
        overlay = Overlay(self.shard, self.session, HybridClock(lambda: self._now))
        module = Module.bind(overlay, "Task/a.py")
        if title is not None:
            module.title = title
        if decided is not None:
            module.machine.decide(*decided)
        transaction = commit(self.shard, overlay, "test", self.name, "")
        assert transaction is not None
        self.seen.append((Frame(self.session), [transaction]))
        return transaction

    def take(self, session: int, first: int, transaction: Transaction) -> None:
        self.shard.apply_transactions(session, first, [transaction])
        self.seen.append((Frame(session), [transaction]))

    def evidence(self) -> Evidence:
        return checkers.evidence(self.name, {0: self.shard}, self.seen)


def claim(epoch: int, owner: str, token: int = 0, state: str = "claimed") -> Decision:
    return Decision("Task/a.py", epoch, owner, token or (epoch if owner else 0), state)


# ------------------------------------------------------------------ agreement


def test_replicas_with_the_same_operations_agree() -> None:
    alice, bob = Site("alice", ALICE), Site("bob", BOB)
    bob.take(ALICE, 1, alice.write("hello"))
    assert checkers.differences([alice.evidence(), bob.evidence()]) == []


def test_a_missing_operation_is_a_difference_that_names_session_and_document() -> None:
    alice, bob = Site("alice", ALICE), Site("bob", BOB)
    bob.take(ALICE, 1, alice.write("hello"))
    alice.write("again")
    found = checkers.differences([alice.evidence(), bob.evidence()])
    assert found == [
        f"shard 0: alice and bob have different frontiers (session {ALICE}: 2 and 1)",
        "1 documents differ between alice and bob: Task/a.py",
    ]


def test_a_sign_off_that_not_all_heard_is_no_difference_but_more_is() -> None:
    alice, bob = Site("alice", ALICE), Site("bob", BOB)
    bob.take(ALICE, 1, alice.write("hello"))
    further = {0: {ALICE: 2}}
    signed_off = replace(alice.evidence(), frontiers=further)
    assert checkers.differences([signed_off, bob.evidence()]) == []
    assert checkers.differences([replace(signed_off, digests={0: b"x"}), bob.evidence()]) == [
        f"shard 0: alice and bob have different frontiers (session {ALICE}: 2 and 1)"
    ]
    assert checkers.differences([replace(signed_off, frontiers={0: {ALICE: 3}}), bob.evidence()])


def test_equal_frontiers_with_different_content_are_found() -> None:
    alice, bob = Site("alice", ALICE), Site("bob", BOB)
    bob.take(ALICE, 1, alice.write("hello"))
    forged = replace(bob.evidence(), digests={0: b"\0" * 16})
    assert checkers.differences([alice.evidence(), forged]) == [
        "shard 0: alice and bob have equal frontiers and different digests"
    ]


def test_a_document_that_only_some_have_is_diverged() -> None:
    assert checkers.diverged([{"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 2}]) == {"b"}
    assert checkers.diverged([{"a": 1}, {"a": 1}]) == set()


# ------------------------------------------------------------------ losses


def test_an_acknowledged_operation_that_a_replica_lacks_is_lost() -> None:
    alice, bob = Site("alice", ALICE), Site("bob", BOB)
    bob.take(ALICE, 1, alice.write("hello"))
    alice.write("again")
    alice.write("and again")
    promises = [Acknowledged(ALICE, 0, 1), Acknowledged(ALICE, 0, 3), Acknowledged(ALICE, 0, 2)]
    (loss,) = checkers.lost([alice.evidence(), bob.evidence()], promises)
    assert (loss.replica, loss.count) == ("bob", 2)
    assert str(loss) == (f"bob lacks acknowledged operations 2 to 3 of session {ALICE} in shard 0")


def test_what_lies_below_the_floor_is_not_lost() -> None:
    alice = Site("alice", ALICE)
    alice.write("hello")
    below = replace(alice.evidence(), floors={0: 1})
    assert checkers.lost([below], [Acknowledged(BOB, 0, 5)]) == []
    assert checkers.lost([alice.evidence()], [Acknowledged(BOB, 0, 5)])


# ------------------------------------------------------------------ claims


def test_decisions_are_read_out_of_transactions_of_any_document_type() -> None:
    alice = Site("alice", ALICE)
    alice.write("hello")
    alice.write(decided=(3, {"owner": "alice", "token": 3, "state": "claimed"}))
    assert alice.evidence().decisions == [claim(3, "alice")]


@pytest.mark.parametrize(
    "history",
    [
        [claim(1, "a"), claim(2, "", state="analysed"), claim(3, "r"), claim(4, "")],
        [claim(1, "a"), claim(1, "a")],
        [claim(1, "a"), claim(2, "a"), claim(3, "")],
        [claim(1, "a"), claim(3, "r")],  # the release between them was never published
    ],
)
def test_an_honest_history_has_no_double_claim(history: list[Decision]) -> None:
    assert checkers.double_claims(history) == []


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ([claim(1, "a"), claim(1, "b")], "epoch 1 was decided twice: a claimed and b claimed"),
        ([claim(1, "a"), claim(2, "b")], "a held it at epoch 1 and b at epoch 2"),
        ([claim(2, "a"), claim(4, "b", token=1)], "a held it at epoch 2 and b at epoch 4"),
        ([claim(2, "b"), claim(1, "a")], "with no release between them"),
    ],
)
def test_a_double_claim_is_found(history: list[Decision], words: str) -> None:
    (found,) = checkers.double_claims(history)
    assert words in found


# ------------------------------------------------------------------ the verdict


def examined(evidence: Evidence, **changes: Any) -> Examined:
    facts: dict[str, Any] = {
        "states": {"a.py": "accepted"},
        "findings": frozenset({("a.py", "key:1:0")}),
        "history": (claim(1, "alice"), claim(2, "", state="analysed")),
    }
    return Examined(evidence, **{**facts, **changes})


def two_sites() -> tuple[Evidence, Evidence]:
    alice, bob = Site("alice", ALICE), Site("bob", BOB)
    bob.take(ALICE, 1, alice.write("hello"))
    return alice.evidence(), bob.evidence()


def test_a_run_in_which_all_holds_is_good() -> None:
    alice, bob = two_sites()
    verdict = weigh(
        [examined(alice), examined(bob)],
        [Acknowledged(ALICE, 0, 1)],
        [("a.py", "key:1:0")],
        ["a.py"],
    )
    assert verdict.good
    assert verdict.converged
    assert (verdict.lost, verdict.double_claims, verdict.updates, verdict.findings) == (0, 0, 1, 1)


def test_every_planted_fault_makes_the_verdict_bad_and_is_named() -> None:
    alice, bob = two_sites()
    late = examined(bob, findings=frozenset(), history=(claim(1, "bob"),))
    verdict = weigh(
        [examined(alice, states={"a.py": "claimed"}), late],
        [Acknowledged(ALICE, 0, 4)],
        [("a.py", "key:1:0")],
        ["a.py", "b.py"],
    )
    assert not verdict.good
    assert verdict.converged
    assert verdict.lost == 3 + 3 + 1
    assert verdict.double_claims == 1
    text = "\n".join(verdict.problems)
    assert "alice lacks acknowledged operations 2 to 4" in text
    assert "bob lacks the acknowledged finding key:1:0 of a.py" in text
    assert "epoch 1 was decided twice" in text
    assert "a.py ended in 'claimed', which is not final" in text
    assert "b.py ended in 'queued', which is not final" in text


def test_only_final_states_are_finished() -> None:
    states = {"a": "accepted", "b": "rework", "c": "reviewed"}
    assert checkers.unfinished(states, FINAL) == ["c ended in 'reviewed', which is not final"]
