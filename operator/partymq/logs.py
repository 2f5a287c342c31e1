"""Log lines.

Invariant: one event is one line on standard error, whatever it contains: of bounded length, and without anything that a
terminal obeys. What other libraries log of what came over the network passes here, too.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from partymq.foreign import multiline
from partymq.settings import LogFormat

LINE: Final = 8_000
"""Characters of a message."""
TRACE: Final = 40_000
"""Characters of a trace."""

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the names that log collectors expect."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": multiline(record.getMessage(), LINE),
        }
        if record.exc_info:
            entry["exception"] = multiline(self.formatException(record.exc_info), TRACE)
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Lines for people."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def format(self, record: logging.LogRecord) -> str:
        """The record, with line breaks that cannot be taken for another record."""
        return multiline(super().format(record), TRACE).replace("\n", "\n    ")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as in logging
        """The first line, without the trace."""
        record.message = multiline(record.message, LINE)
        return super().formatMessage(record)


def configure(form: LogFormat, level: str) -> None:
    """Send everything to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        # kopf tells at INFO that its handlers ran: ours log what they did themselves.
        logging.getLogger("kopf").setLevel(logging.WARNING)
        logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    # "OS signals are ignored": signals are the main thread's affair.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
