"""
Where tables go, one file each.
"""
