"""The command line: `main` in main.py, one file per verb. Each verb imports what it needs when it runs, so `--help` is quick."""
