"""turbo beside its peers: `make bench`, or `python -m benchmarks --only pickup --rounds 5`.

    contenders/   one file each: how it is installed, tuned, given a job, and told that all are done
    measures/     one file each: what is measured, in interleaved rounds on one embedded PostgreSQL
    report.py     docs/benchmarks/: results.json, the tables (README.md) and the plots, made anew by every run

Figures of a noisy machine mean nothing alone. So every measure runs its contenders in turn, round after round, and what
counts is the ratio of the medians of one run.
"""
