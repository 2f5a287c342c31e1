"""`python -m partymq`."""

import sys

from partymq.cli import main

sys.exit(main())
