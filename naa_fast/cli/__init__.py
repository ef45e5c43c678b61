"""The command line: `main` in main.py, one file per verb. Each verb imports what it needs when it runs, so `--help` is quick.

shared.py has the options and what they ask for, judging.py and outputs.py what a verb with a verdict gives and where it may
write, progress.py the progress for a machine.
"""
