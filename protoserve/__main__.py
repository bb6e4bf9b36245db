"""
``python -m protoserve`` is ``protoserve``.
"""

from protoserve.cli import main

main()
