"""One logger, to stderr; a rank's lines say which rank."""

from __future__ import annotations

import logging
import os
import sys

logger = logging.getLogger("fullbore")


def configure(verbosity: int = 0) -> None:
    """`verbosity`: -1 errors only, 0 warnings, 1 information, 2 everything."""
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    rank = os.environ.get("RANK")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"[rank {rank}] %(message)s" if rank else "%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
