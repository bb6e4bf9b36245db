"""
How much work servers do for each second of processor time, against the C limit, the
standard library's servers, others' and the same work written by hand.

`loads` says what is asked of servers and `servers` which there are; `c/` has the load
generators and the limit, `peers/` the Python servers. `measure` runs them in turns,
`figures` judges, `report` and `growth` show, `page` writes the documentation's page.
"""
