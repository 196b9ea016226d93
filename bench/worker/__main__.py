"""`python -m bench.worker request.json record.json`: one request in, one record out."""

import sys

from bench.worker.answer import main

sys.exit(main(sys.argv[1:]))
