"""`make demo`: on a cluster."""

import sys

from demo.cluster import demonstrate

if __name__ == "__main__":
    sys.exit(demonstrate())
