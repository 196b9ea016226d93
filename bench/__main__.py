"""`python -m bench` is `framework-bench`."""

import sys

from bench.cli import main

sys.exit(main())
