"""The command line, one file a verb. Each verb imports what it needs when it runs, so that `--help` is quick.

Start with `main` in main.py, then scan.py.

- main.py: words in, an exit code out

Verbs:
- scan.py: model and both sets in, report out
- invert.py: the same without suspects
- measure.py: one set into a file
- merge.py: files of parts into one
- compare.py: two files judged
- rank.py: the samples farthest outside
- prove.py: suspects that were ranked elsewhere
- repair.py: a report's repair as a file to deploy
- report.py: a report drawn again
- bench.py: how fast the kernels are here
- bench_own.py: how fast a scan of one's own model is
- doctor.py: what is installed
- demo.py: a backdoor found and cut out

What they share:
- shared.py: options, checked as they are read
- judging.py: what a verb with a verdict gives
- outputs.py: where it may write
- config.py: options from a file
- base.py: the model that another was tuned from
- progress.py: progress for a machine
"""
