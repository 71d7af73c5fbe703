"""A schedule: acts on one store through a network that fails, drawn from a seed, and what has to hold of each.

Whatever meets an act, it ends as it should, or with an error of ours. Where it says that it is done, the store is as
after the same act without faults, to the byte. An error is tried again, as Airflow does; then once without faults.
"""

from __future__ import annotations

import random
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from botocore.credentials import RefreshableCredentials

from fixtures import faulty_network
from fixtures.faulty_network import FaultyNetwork, Request
from onnx_fleet.errors import OnnxFleetError, Retryable
from onnx_fleet.store import ObjectInfo, ObjectStore, S3Settings, open_store
from onnx_fleet.store.address import ChecksumMode
from onnx_fleet.store.forwarding import ForwardingStore
from onnx_fleet_demo.s3_server import EmbeddedS3
from reliability import invariants
from reliability.actors import ACTORS, NotDone, Scene

TRIES: Final = 3
"""How often an act is tried under faults."""
_BEGINNING: Final = ("publishes the first version", "publishes another version")
"""What each schedule begins with: most others need something to be there."""
_PATIENCE_S: Final = 1.0
"""How long a client waits for an answer: a server on loopback has one in milliseconds."""
_SHARES: Final = (0.02, 0.05, 0.1)
"""The shares of requests that meet a fault."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one schedule."""

    seed: int
    acts: tuple[str, ...]
    share: float
    attempts: int
    """How often boto3 sends a request at most."""
    requests: int = 0
    met: Counter[str] = field(default_factory=Counter)
    """How many of each fault there were."""
    errors: Counter[str] = field(default_factory=Counter)
    """How many acts ended with an error of each class."""
    wrong: list[str] = field(default_factory=list)
    """What must not be: statements, none where all is well."""

    def __str__(self) -> str:
        head = f"seed {self.seed}: {', '.join(self.acts)}; {self.share:.0%} of {self.requests} requests meet a fault,"
        head += f" boto3 sends {self.attempts} times"
        return "\n    ".join([head, *self.wrong])


@dataclass(slots=True)
class _Keys:
    """Temporary keys of which the source always has newer ones, which are given to those who ask."""

    number: int = 0

    def __call__(self) -> dict[str, str]:
        self.number += 1
        until = datetime.now(UTC) + timedelta(minutes=5)  # so short that botocore asks for new ones at each request
        return {
            "access_key": f"key-{self.number}",
            "secret_key": "secret",
            "token": "token",
            "expiry_time": until.isoformat(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket of an embedded server, as another process reaches it."""

    address: str
    settings: S3Settings
    on_disk: Path

    @classmethod
    def of(cls, server: EmbeddedS3) -> Self:
        on_disk = server.data_dir / "objects" / "000000000000" / server.bucket
        return cls(address=server.address, settings=server.settings, on_disk=on_disk)


class OnDisk(ForwardingStore):
    """What stands in a bucket of the embedded server, read from its disk: to look is to ask nothing of the server."""

    def __init__(self, folder: Path) -> None:
        super().__init__(open_store(str(folder)))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (info for info in super().list(prefix) if not info.key.endswith((".meta.json", ".tmp")))


def run(seed: int, *, bucket: Bucket, stages: Path) -> Outcome:
    """Run the schedule of a seed.

    Args:
        bucket: it has nothing under the seed's prefix.
        stages: as actors.make_stages made them.
    """
    draw = random.Random(seed)
    acts = (*_BEGINNING, *draw.choices([name for name in ACTORS if name not in _BEGINNING], k=draw.choice((1, 2))))
    outcome = Outcome(seed=seed, acts=acts, share=draw.choice(_SHARES), attempts=draw.choice((1, 2, 3)))
    checksums: ChecksumMode = draw.choice(("when_supported", "when_supported", "when_required"))
    fits = _always if checksums == "when_supported" else _without_checksums
    fault = faulty_network.drawn(f"{seed}", share=outcome.share, fits=fits)
    address, true = f"{bucket.address}/schedule-{seed}", OnDisk(bucket.on_disk / f"schedule-{seed}")
    with (
        tempfile.TemporaryDirectory() as folder,
        faulty_network.serve(str(bucket.settings.endpoint_url), fault) as network,
    ):
        ours, theirs = (Scene(stages=stages, folder=Path(folder) / name) for name in ("ours", "theirs"))
        ours.folder.mkdir()
        theirs.folder.mkdir()
        reference = open_store(str(Path(folder) / "reference"))
        settings = replace(bucket.settings, checksum_mode=checksums, max_attempts=outcome.attempts)
        faulty = _behind(network, address, settings)
        for minute, name in enumerate(acts):
            ours, theirs = replace(ours, minute=minute), replace(theirs, minute=minute)
            ACTORS[name].act(reference, theirs)
            if not _is_done(name, ours, faulty=faulty, true=true, outcome=outcome):
                ACTORS[name].act(open_store(address, s3=bucket.settings), ours)
            outcome.wrong += [f"{name}: {each}" for each in _unlike(true, reference)]
        outcome.wrong += invariants.broken(true)
        outcome.requests, outcome.met = network.requests.total(), network.met
    return outcome


def _behind(network: FaultyNetwork, address: str, settings: S3Settings) -> ObjectStore:
    """Open the store through a network, with keys that are renewed and with little patience."""
    settings = replace(
        settings,
        endpoint_url=network.endpoint_url,
        access_key_id=None,
        secret_access_key=None,
        read_timeout_s=_PATIENCE_S,
        multipart_bytes=5 << 20,
    )
    keys = _Keys()
    credentials = RefreshableCredentials.create_from_metadata(keys(), refresh_using=keys, method="schedule")
    return open_store(address, s3=settings, credentials=credentials)


def _is_done(name: str, scene: Scene, *, faulty: ObjectStore, true: ObjectStore, outcome: Outcome) -> bool:
    """Act under faults, several times where it does not get through; returns whether it said that it is done."""
    for _ in range(TRIES):
        try:
            ACTORS[name].act(faulty, scene)
        except (Retryable, NotDone) as err:
            outcome.errors[type(err).__name__] += 1
            if isinstance(err, NotDone) and "decide again" in str(err):
                outcome.wrong.append(f"{name}: nobody else was there, and yet: {err}")
        except OnnxFleetError as err:
            outcome.wrong.append(f"{name}: a fault that passes was told as one that stays: {type(err).__name__}: {err}")
        except Exception:  # noqa: BLE001 - whatever is not ours is what is looked for
            outcome.wrong.append(f"{name}: {traceback.format_exc()}")
        else:
            return True
        outcome.wrong += [f"{name}, broken off: {each}" for each in invariants.broken(true)]
    return False


def _unlike(store: ObjectStore, reference: ObjectStore) -> list[str]:
    found, wanted = (invariants.contents(each) for each in (store, reference))
    return [f"{key} is not as after the same without faults" for key in invariants.differences(found, wanted)]


def _always(request: Request, fault: str) -> bool:
    return True


def _without_checksums(request: Request, fault: str) -> bool:
    """Without checksums only what a manifest has digests of is safe from damage on the way; TLS is for the rest."""
    if fault == "wrong bytes received":
        return "/models/" in request.key and not request.key.endswith(".json")
    return True
