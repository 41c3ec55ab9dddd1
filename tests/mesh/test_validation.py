"""A document's own rule, checked when its edit ends."""

from __future__ import annotations

import pytest

from crdt import Document, Register
from crdt.errors import EditMisuse
from tests.mesh.world import Task, World, running


class Loan(Document):
    """A document with a rule that no single field can state."""

    granted: Register[int]
    spent: Register[int]
    purpose: Register[str]

    def validate(self) -> None:
        if (self.spent or 0) > (self.granted or 0):
            raise ValueError(f"{self.id}: {self.spent} of {self.granted} spent")


class LoanView(Document, name="Loan"):
    """The same documents, through a class without the rule."""

    spent: Register[int]


async def test_a_document_that_is_not_valid_is_not_written(memory_world: World) -> None:
    replica = memory_world.replica("a")
    async with running(replica):
        with replica.edit(Loan, "{x}/1") as loan:
            loan.spent = 7  # only the end of the edit counts
            loan.granted = 10
        before = (replica.digest(), replica.frontier())

        def overspend() -> None:
            with replica.edit(Loan, "{x}/1") as loan:
                loan.purpose = "lost"
                loan.spent = 11

        def overspend_among_others() -> None:
            with replica.transaction(type="loans") as tx:
                tx.edit(Task, "{x}/t").title = "lost"
                tx.edit(Loan, "{x}/2").granted = 5
                tx.edit(Loan, "{x}/3").spent = 1

        for call, message in ((overspend, "11 of 10"), (overspend_among_others, "Loan/{x}/3")):
            with pytest.raises(ValueError, match=message):
                call()
            assert (replica.digest(), replica.frontier()) == before
        # The next edit is not hindered; whoever does not write, or deletes, need not be valid.
        with replica.edit(LoanView, "{x}/1") as loose:
            loose.spent = 12
        with replica.edit(Loan, "{x}/1") as loan:
            assert loan.spent == 12
        with pytest.raises(ValueError, match="12 of 10"), replica.edit(Loan, "{x}/1") as loan:
            loan.purpose = "x"
        with replica.transaction(type="loan.settled") as tx:
            tx.edit(Loan, "{x}/1").spent = 13
            assert tx.delete(Loan, "{x}/1")
        assert not replica.exists(Loan, "{x}/1")
        assert replica.create(Loan, "{x}/1")


async def test_validation_is_part_of_its_edit(memory_world: World) -> None:
    replica = memory_world.replica("a")

    class Nosy(Document):
        title: Register[str]

        def validate(self) -> None:
            with replica.edit(Task, "2") as task:
                task.title = "x"

    async with running(replica):
        with (
            pytest.raises(EditMisuse, match="Task/2 was begun while one of Nosy/1 is open"),
            replica.edit(Nosy, "1") as nosy,
        ):
            nosy.title = "x"
        assert not replica.exists(Nosy, "1")
        with replica.edit(Task, "2") as task:
            task.title = "fine"
