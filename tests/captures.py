"""
Where the captures are that tests compare decoders with.

They were made by others and are no part of the project.
"""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def captures(protocol):
    """
    List the captures of a protocol; none where they are not beside the checkout.

    The environment variable PROTOSERVE_CAPTURES names another place.
    """
    folder = os.environ.get("PROTOSERVE_CAPTURES", ROOT.parent / "shared" / "captures")
    return sorted(Path(folder, protocol).glob("*.pcap"))
