"""`python -m naa_fast`: the same as the `naa-fast` command."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # -m puts the current directory first: a stray numpy.py in a downloaded model folder would be imported as NumPy.
        sys.path.append(sys.path.pop(0))

    from naa_fast.cli.main import main

    sys.exit(main())
