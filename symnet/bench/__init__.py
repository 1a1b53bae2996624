"""Speed: every fast path against its plain twin, in one process, once both are found to compute the same.

`twins` are the plain ones, `material` makes inputs up, `cases` says what is timed, `timing` checks and times it, `table1` tells from the
rates how long the paper's Table 1 takes, `report` runs all of it.
"""
