"""
The account of datagrams.
"""

import os
import signal

import pytest

from protoserve.account import REASONS, Account
from tests.forking import forked
from tests.service.kit import until


def test_what_is_handled_is_delivered():
    """Datagrams that are handled are delivered, but those that are set aside."""
    account = Account()
    with account.handling(10):
        account.set_aside(3)
        account.reject("malformed", 2)
    balance = account.balance()
    assert (10, 5, 3) == (balance.received, balance.delivered, balance.in_flight)
    account.deliver(2)
    account.drop("sink")
    assert 0 == account.balance().in_flight


def test_rejected_afterwards():
    """What turns out to be bad after it was handled is not counted twice."""
    account = Account()
    with account.handling(2):
        pass
    account.reject("queue")
    balance = account.balance()
    assert (2, 1, 1) == (balance.received, balance.delivered, balance.dropped["queue"])
    assert 0 == balance.in_flight


def test_lost_before_it_came():
    """What the kernel has dropped counts as received."""
    account = Account()
    account.lose("kernel", 5)
    balance = account.balance()
    assert (5, 5, 0) == (balance.received, balance.dropped["kernel"], balance.in_flight)
    assert [*REASONS] == [*balance.dropped]


def child(work):
    """
    Do something in a process that waits afterwards; give its number.
    """
    reader, writer = os.pipe()

    def wait():
        work()
        os.write(writer, b"x")
        signal.pause()

    pid = forked(wait)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return pid


def end(pid):
    """
    Kill a child and wait for it.
    """
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_process_that_is_killed(is_replaced):
    """What a process had in hand when it was killed is dropped, and the sum is exact."""
    account = Account()

    def work():
        account.make_private()
        account.join(0)
        account.receive(10)
        account.deliver(4)
        account.hand_over(1)

    pid = child(work)
    assert 10 == account.balance().received
    assert 0 == account.settle()
    end(pid)
    account.deliver(1)  # what was handed over
    if is_replaced:
        end(child(lambda: (account.make_private(), account.join(0))))
    else:
        assert 5 == account.settle()
    assert 0 == account.settle()
    balance = account.balance()
    assert (10, 5, 5) == (
        balance.received,
        balance.delivered,
        balance.dropped["killed"],
    )


def test_what_was_handed_over_and_not_counted():
    """The books of whoever has datagrams now are right, not those of the dead."""
    account = Account()

    def work():
        account.make_private()
        account.join(3)
        account.receive(10)
        account.hand_over(4)

    end(child(work))
    pid = child(lambda: (account.make_private(), account.join(3, handed_over=9)))
    until(lambda: account.balance().dropped["killed"] == 1)
    end(pid)


def test_two_lives_of_a_number():
    """A process may take another's number before that one has ended."""
    account = Account()

    def work():
        account.make_private()
        account.join(1)
        account.receive(3)
        account.deliver(3)

    pids = [child(work) for _ in range(3)]
    assert (9, 9) == (account.balance().received, account.balance().delivered)
    for pid in pids:
        end(pid)
    assert 0 == account.settle()


def test_others():
    """Other things are counted in the same way."""
    account = Account(["rows"])
    account.add("rows", 7)
    assert 7 == account.sum("rows")
    assert 0 == account.balance().received


def test_children_count_in_one_place():
    """No count is lost where several processes count without numbers of their own."""
    account = Account()
    account.share()

    def count():
        for _ in range(20_000):
            account.receive()

    pid = forked(count)
    count()
    assert (pid, 0) == os.waitpid(pid, 0)
    assert 40_000 == account.balance().received
