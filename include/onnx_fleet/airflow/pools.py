"""The pool that heavy tasks run in: without it Airflow would leave them waiting for ever, without a message."""

from __future__ import annotations

import logging

from airflow.jobs.job import Job
from airflow.listeners import hookimpl
from airflow.models.pool import Pool
from airflow.utils.session import create_session
from sqlalchemy.exc import IntegrityError

from onnx_fleet.airflow import settings

log = logging.getLogger(__name__)


class EnsurePool:
    """An Airflow listener: whenever a scheduler starts, the pool exists and is as large as configured."""

    @hookimpl
    def on_starting(self, component: object) -> None:
        """Make the pool when a scheduler starts; every Airflow process calls this, with its Job where it has one."""
        if isinstance(component, Job):
            ensure()


def ensure() -> None:
    """Make the pool, or give it the slots that are configured.

    An error is logged by the process that starts, and does not stop it.
    """
    wanted = settings.read()
    description = "onnx-fleet's heavy tasks; [onnx_fleet] cpu_pool_slots says how many at a time"
    try:
        with create_session() as session:
            pool = Pool.get_pool(wanted.cpu_pool, session=session)
            if pool is not None and pool.slots == wanted.cpu_pool_slots:
                return
            Pool.create_or_update_pool(
                wanted.cpu_pool,
                slots=wanted.cpu_pool_slots,
                description=description,
                include_deferred=False,
                session=session,
            )
    except IntegrityError:
        log.info("pool %s was made by another process at the same moment", wanted.cpu_pool)
    else:
        log.info("pool %s has %d slots", wanted.cpu_pool, wanted.cpu_pool_slots)
