"""``bench``: what SparseDrop gains on this machine.

`workloads` says what is run, `timing` how it is timed, `rows` what one result is; `report`, `plot` and
`record` show the rows as tables, as a picture and as JSON, and `readme` writes the README's tables.
"""
