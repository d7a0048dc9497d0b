"""Which pending mutations of the blocking front may be sent again."""

from __future__ import annotations

import pytest

from callstate_client.transport.pending import OPS_REMEMBERED
from callstate_client.transport.process_connections import ProcessConnections


@pytest.mark.parametrize("earlier", [0, 1, 3])
def test_a_mutation_is_remembered_until_as_many_others_may_have_followed_it(earlier: int) -> None:
    """Those that were pending when it began may take effect after it."""
    ours = ProcessConnections()
    for _ in range(earlier):
        ours.begin("c1")
    number = ours.begin("c1")
    for _ in range(OPS_REMEMBERED - 1 - earlier):
        assert ours.is_remembered("c1", number)
        ours.begin("c1")
        ours.done("c1")
    ours.begin("c2")  # another session's do not count
    assert ours.is_remembered("c1", number)
    ours.begin("c1")
    assert not ours.is_remembered("c1", number)


def test_mutations_that_were_answered_before_it_do_not_count() -> None:
    ours = ProcessConnections()
    ours.begin("c1")
    for _ in range(OPS_REMEMBERED):
        ours.begin("c1")
        ours.done("c1")
    ours.done("c1")
    ours.begin("c1")
    ours.done("c1")
    assert ours.is_remembered("c1", ours.begin("c1"))
