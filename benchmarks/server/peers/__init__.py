"""
The Python servers, each run as a program: ``python -m benchmarks.server.peers NAME``.

`by_hand` and `by_hand_udp` do what a declared service does, `ours` is one. All others
do the least that a server can: they unpack the header and answer with what they got.
"""
