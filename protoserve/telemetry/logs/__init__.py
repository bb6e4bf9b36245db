"""
Logs that carry entries past a process, or past a machine, one file each.
"""
