"""Suppress the output of transformers during loading."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress logging and warnings of transformers; problems are reported as errors."""
    from transformers.utils import logging

    quiet_transformers()
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def quiet_transformers() -> None:
    """Disable the progress bars of transformers."""
    from transformers.utils import logging

    logging.disable_progress_bar()
