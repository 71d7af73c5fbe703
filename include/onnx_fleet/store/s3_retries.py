"""How an error of a bucket is retried that boto3 does not know of; what never reached the server it retries itself."""

from __future__ import annotations

from typing import Never

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from onnx_fleet.errors import StoreUnavailable


def again_on(*kinds: type[Exception]) -> Retrying:
    """Return the attempts at a call that may raise such errors; after the last one it is raised, too."""
    return Retrying(
        retry=retry_if_exception_type(kinds),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        stop=stop_after_attempt(5),
        retry_error_callback=_give_up,
    )


def _give_up(state: RetryCallState) -> Never:
    """Raise what it failed with last; a StoreUnavailable of a private class by the name that callers know."""
    err = state.outcome.exception() if state.outcome else None
    if isinstance(err, StoreUnavailable):
        raise StoreUnavailable(str(err)) from err
    raise err or AssertionError("only what has failed is given up")
