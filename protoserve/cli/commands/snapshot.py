"""
``protoserve snapshot``: keep a protocol's wire layout.
"""

from __future__ import annotations

from protoserve.cli.options import AsJson, Output, Spoken

__all__ = ["snapshot"]


def snapshot(
    protocol: Spoken,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """
    Write a protocol's wire layout as JSON, for compat to compare with.
    """
    from protoserve.cli.comparing import take_snapshot

    take_snapshot(protocol, output, as_json=as_json)
