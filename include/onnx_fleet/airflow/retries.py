"""The rule by which Airflow retries failed tasks: which failures, and when."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Context
from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy

from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.errors import HubRateLimited, Permanent, Retryable


class ByErrorClass(RetryPolicy):
    """Permanent errors fail at once, retryable ones are retried with back-off, a rate limit as long as it lasts.

    Anything else (a worker that died, a fault of ours) takes Airflow's own way: retried like a retryable error.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        name = type(exception).__name__
        match exception:
            case Permanent():
                return RetryDecision.fail(reason=f"{name}: the same call would fail again")
            case HubRateLimited(retry_after_s=float() as wait_s):
                return RetryDecision.retry(timedelta(seconds=wait_s), reason=f"{name}: the Hub asks for {wait_s:.0f} s")
            case Retryable():
                return RetryDecision.retry(reason=f"{name}: it may succeed later")
        return RetryDecision.default()


def options(settings: FleetSettings) -> dict[str, Any]:
    """Return how a task of ours is retried, as arguments of ``@task``."""
    return {
        "retries": settings.retries,
        "retry_delay": settings.retry_delay,
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": settings.retry_delay_max,
        "retry_policy": ByErrorClass(),
    }
