"""What each statement of the engine costs, in instructions: `make cost`.

    statements.py   what is measured: the rows of the table, each statement as turbo sends it, and its proof
    backend.py      a single-user server under valgrind's callgrind, and the difference between two runs
    record.py       docs/benchmarks: cost.json and cost.md, and the table beside the last recorded figures

A clock on a shared machine is too coarse for a change of one per cent. Instructions do not depend on who else uses the
machine: a figure repeats to 0.1 %.
"""
