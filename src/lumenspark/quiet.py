"""What transformers prints while it loads."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers says nothing: what is wrong becomes an error, in a sentence."""
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
    """No progress bars for models that load in a blink."""
    from transformers.utils import logging

    logging.disable_progress_bar()
