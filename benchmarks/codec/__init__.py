"""
How fast messages are parsed and built, against code written by hand and others'.
"""
