"""`python -m naa_fast`: the same as the `naa-fast` command."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from naa_fast.cli.main import main

    sys.exit(main())
