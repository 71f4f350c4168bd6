"""Wall time, CPU time and memory of each job, side by side with what a user would pick instead.

    python -m benchmarks                       # everything, five rounds; needs about 12 GB of disk for its files
    python -m benchmarks inspect convert       # some of the jobs
    python -m benchmarks --rounds 9 --write    # writes docs/performance.json and the table of docs/performance.md

In a round every way does the job once, in a fresh process where start-up counts, one after the other; so what else
the machine does meets all of them alike. A ratio is the median of the ratios within a round.
"""
