"""Wall time, CPU time and memory of each job, side by side with what a user would pick instead.

    python -m benchmarks                               # everything, five rounds, printed
    python -m benchmarks --out docs/performance.json   # the same, written there and into the page beside it
    python -m benchmarks --quick inspect convert       # some of the jobs, one round: whether all still runs
    python -m benchmarks --gpu gpu.json --out docs/performance.json   # what benchmarks/gpu.py found, into the page

It makes its own files in a temporary folder (about 6 GB, and 9 GB more while the largest is written) and removes them.
In a round every way does the job once, in a fresh process where start-up counts, one after the other; so what else
the machine does meets all of them alike. A ratio is the median of the ratios within a round.
"""
