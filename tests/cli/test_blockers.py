"""Who holds a lock, from what the kernel says."""

from __future__ import annotations

from postfleet.cli.blockers import lock_holders

LOCKS = """\
1: FLOCK  ADVISORY  WRITE 4711 fe:00:2162990 0 EOF
1: -> FLOCK  ADVISORY  WRITE 4712 fe:00:2162990 0 EOF
2: POSIX  ADVISORY  READ  4713 fe:00:2162991 123 123
3: FLOCK  ADVISORY  READ  4714 fe:00:2162992 0 EOF
"""


def test_only_who_has_the_lock_holds_it() -> None:
    """Waiting for it, or another kind of lock, does not count."""
    assert lock_holders(LOCKS) == {4711, 4714}
