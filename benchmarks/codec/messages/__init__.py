"""
The messages: each declared with protoserve, written by hand, and told to Construct.
"""
