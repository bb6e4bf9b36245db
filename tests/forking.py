"""
Children of a test's process.
"""

import os
import traceback


def forked(work):
    """
    Do something in a child, which never comes back into the tests; give its number.

    It ends with what `work` gives, or 0 for nothing; with 99 if that has failed.
    """
    pid = os.fork()
    if not pid:
        status = 99
        try:
            status = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid
