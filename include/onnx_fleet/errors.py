"""Everything that onnx-fleet raises on purpose.

    OnnxFleetError
    ├─ Retryable                  the same call may succeed later
    │  ├─ HubUnavailable            the Hub did not answer, or answered 5xx
    │  ├─ HubRateLimited            429; carries retry_after_s
    │  ├─ HubFileCorrupt            a downloaded file has another size or digest than the Hub lists
    │  ├─ ModelBusy                 another run is making the model; carries retry_after_s
    │  ├─ StoreUnavailable          the store did not answer, or in a way that passes: 5xx, busy, keys that ran out
    │  ├─ SinkUnavailable           a registry did not answer, or in a way that passes; carries retry_after_s
    │  └─ WorkerOutOfResources      memory limit, full disk
    └─ Permanent                  the same call fails again
       ├─ RefusedByRule             a rule of the catalogue, or a limit of the deployment, keeps the model out
       │  ├─ ModelTooLarge            more bytes than the entry allows
       │  ├─ LicenceRefused           licence not among allowed_licences, or declined by a person
       │  ├─ LicenceUnapproved        a person has to approve the licence, and has not answered
       │  ├─ UnsafeModel              pickle weights, remote code, a file name that leaves its folder
       │  ├─ ModelRenamed             the Hub has another id for it, and the entry does not follow
       │  ├─ WorkerTooSmall           no worker has the memory or the disk that the model is predicted to need
       │  └─ DuplicateModel           another entry is the same model to the Hub
       ├─ CatalogueInvalid          every fault of a catalogue file, listed
       ├─ ModelNotFound             no such repo or revision
       ├─ ModelGated                the token has no access
       ├─ ModelInvalid              no architecture, no tokenizer, unreadable weights
       ├─ ExportUnsupported         no family or task fits, or the exporter refuses the model
       ├─ StepCrashed               the step's process died
       ├─ StepTimedOut              the step's process ran past its limit
       ├─ ValidationFailed          the graph is not equal to PyTorch
       ├─ GpuUnavailable            CUDA was asked for and did not run
       ├─ BundleNotFound            no such model, version or channel in the store
       │  └─ BundleDeleted            the version was published once, and removed
       ├─ BundleCorrupt             a file of a bundle is missing or has other bytes than its manifest says
       ├─ BundleUntrusted           the signatures of a bundle are not those that the trust policy asks for
       ├─ TrustPolicyInvalid        a trust policy has faults, or names a key that cannot be read
       ├─ SigningKeyInvalid         what bundles are to be signed with is no usable key
       ├─ VersionConflict           other bytes stand under the same version, or a channel was moved meanwhile
       ├─ RolloutConflict           a rollout is not in the state that is needed for what is asked
       ├─ FolderOccupied            the folder to pull into holds something else
       ├─ LayoutUnsupported         the server that a layout is for cannot run the bundle's graphs
       ├─ StoreDenied               no credentials, or they are refused
       ├─ StoreNotFound             no such bucket or folder
       ├─ StoreUnsafe               the server refuses or ignores conditions: writers could overwrite each other
       ├─ SinksInvalid              every fault of a file of sinks, listed
       ├─ SinkDenied                a registry refuses the credentials, or there are none
       └─ EventRefused              a registry does not take one event, and may take the next one

A message says what, where and what to do next. Retryable errors go through Airflow's retries; permanent ones
fail at once. A model that a rule of the catalogue or a limit of the deployment keeps out ends a run as `refused`,
and any other error ends it as `failed`: `ending` is the one place that decides so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self


class OnnxFleetError(Exception):
    """The root: catching it catches everything that onnx-fleet raises on purpose."""


class Retryable(OnnxFleetError):
    """The same call may succeed later."""


class HubUnavailable(Retryable):
    """The Hub did not answer, or answered 5xx."""


class HubRateLimited(Retryable):
    """The Hub answered 429.

    Attributes:
        retry_after_s: seconds after which the Hub takes requests again, where it said so.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class HubFileCorrupt(Retryable):
    """A downloaded file has another size or digest than the Hub lists."""


class ModelBusy(Retryable):
    """Another run is making the model.

    Attributes:
        retry_after_s: seconds after which to look again.
    """

    def __init__(self, message: str, *, retry_after_s: float = 30.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(Retryable):
    """The store did not answer, or its answer is one that passes: 5xx, too many requests, keys that ran out."""


class SinkUnavailable(Retryable):
    """A registry did not answer, or its answer is one that passes: 5xx, too many requests.

    Attributes:
        retry_after_s: seconds after which it takes requests again, where it said so.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class WorkerOutOfResources(Retryable):
    """The worker's memory limit was passed, or its disk is full."""


class Permanent(OnnxFleetError):
    """The same call fails again."""


class RefusedByRule(Permanent):
    """A rule of the catalogue or a limit of the deployment keeps the model out, as it is meant to.

    A run counts it as refused, not as failed.
    """


class ModelTooLarge(RefusedByRule):
    """The files to download are larger than the entry's max_bytes."""


class LicenceRefused(RefusedByRule):
    """The model's licence is not among allowed_licences, or a person has declined it."""


class LicenceUnapproved(RefusedByRule):
    """The model's licence is one that a person has to approve, and nobody has answered."""


class UnsafeModel(RefusedByRule):
    """Pickle weights, remote code, or a file name that leaves the folder meant for it."""


class ModelRenamed(RefusedByRule):
    """The Hub has the repo under another id by now, and its entry says not to follow."""


class WorkerTooSmall(RefusedByRule):
    """No worker has the memory or the disk that the model is predicted to need."""


class DuplicateModel(RefusedByRule):
    """Two entries name one model, and a model has one entry."""


class CatalogueInvalid(Permanent):
    """A catalogue file has faults; its message has a line for each of them."""

    @classmethod
    def of(cls, faults: Iterable[str]) -> Self:
        """The error of several faults.

        Args:
            faults: one line each, ``file:line: what; what to write instead``.
        """
        return cls("\n".join(faults))

    @property
    def faults(self) -> tuple[str, ...]:
        """The lines of the message."""
        return tuple(str(self).splitlines())


class ModelNotFound(Permanent):
    """No such repo or revision on the Hub."""


class ModelGated(Permanent):
    """The repo is gated or private, and the token has no access."""


class ModelInvalid(Permanent):
    """The repo's files are not a usable model: no architecture, no tokenizer, unreadable weights."""


class ExportUnsupported(Permanent):
    """No family or task fits the model, or the exporter refuses it."""


class StepCrashed(Permanent):
    """The step's process died: a native crash, or a kill that was not ours."""


class StepTimedOut(Permanent):
    """The step's process ran past its time limit and was stopped."""


class ValidationFailed(Permanent):
    """The graph is not equal to PyTorch."""


class GpuUnavailable(Permanent):
    """CUDA was asked for, and the session's nodes did not run there."""


class BundleNotFound(Permanent):
    """The store has no such model, version or channel."""


class BundleDeleted(BundleNotFound):
    """The version was removed from the store; no other bundle is ever published under its name."""


class BundleCorrupt(Permanent):
    """A file of a bundle is missing or has other bytes than its manifest says."""


class BundleUntrusted(Permanent):
    """The signatures of a bundle are not those that the trust policy asks for."""


class TrustPolicyInvalid(Permanent):
    """A trust policy has faults, or names a key that cannot be read."""


class SigningKeyInvalid(Permanent):
    """What bundles are to be signed with is no usable key: it is broken, its passphrase is wrong, or it has expired."""


class VersionConflict(Permanent):
    """Other bytes stand under the same version, or a channel was moved by another writer meanwhile."""


class RolloutConflict(Permanent):
    """A rollout is not in the state that is needed for what is asked: one that runs cannot be continued."""


class FolderOccupied(Permanent):
    """The folder to pull into holds something else, or cannot be exchanged for another one in one step."""


class LayoutUnsupported(Permanent):
    """The server that a layout is for cannot run the bundle's graphs."""


class StoreDenied(Permanent):
    """The store has no credentials to use, or refuses them."""


class StoreNotFound(Permanent):
    """The bucket or folder that the store's address names does not exist."""


class StoreUnsafe(Permanent):
    """The server refuses conditional writes or ignores their conditions: two writers could overwrite each other."""


class SinksInvalid(Permanent):
    """A file of sinks has faults; its message has a line for each of them."""


class SinkDenied(Permanent):
    """A registry refuses the credentials, or the deployment has none of that name."""


class EventRefused(Permanent):
    """A registry does not take one event as it is; the next one may be fine."""


def named(error: str, message: str, **attributes: Any) -> OnnxFleetError | None:
    """An error that came as text from another process or from a record, as its own class; None if it is not ours.

    Args:
        error: the class's name.
        attributes: what the class carries beside its message, such as ``retry_after_s``.
    """
    kind = globals().get(error)
    if not (isinstance(kind, type) and issubclass(kind, OnnxFleetError)):
        return None
    return kind(message, **attributes)


def ending(error: str) -> Literal["failed", "refused"]:
    """How a model ends that this error stopped.

    Args:
        error: the error class's name; one that is not ours is a failure.
    """
    kind = globals().get(error)
    return "refused" if isinstance(kind, type) and issubclass(kind, RefusedByRule) else "failed"
