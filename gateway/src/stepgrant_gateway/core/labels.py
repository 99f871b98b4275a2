"""Label memory: which labels later tasks of an instance, or of its whole workload, may have to start with (design 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

from stepgrant_gateway.core.decision import LONGEST_MEMORY

MAX_INSTANCES: Final = 1024
"""Instances of one workload that are told apart by what brought one label, 150 bytes each; any further ones count as one."""
OTHERS: Final = b""
"""Stands for all instances that are not told apart. No key has such a thumbprint."""

Key = TypeVar("Key", str, bytes)


@dataclass(slots=True)
class LabelMemory:
    """When each label was brought last: by workload and label, and by workload, label and instance key."""

    workloads: dict[str, dict[str, datetime]] = field(default_factory=dict)
    instances: dict[str, dict[str, dict[bytes, datetime]]] = field(default_factory=dict)

    def remember(self, workload: str, instance_jkt: bytes, labels: Iterable[str], at: datetime) -> None:
        """Keeps labels for later tasks of the same instance and of the same workload."""
        for label in labels:
            _keep(self.workloads.setdefault(workload, {}), label, at)
            by_label = self.instances.setdefault(workload, {})
            if instance_jkt not in by_label.setdefault(label, {}) and len(by_label[label]) >= MAX_INSTANCES:
                by_label[label] = _since(by_label[label], at - LONGEST_MEMORY)
            instances = by_label[label]
            apart = instance_jkt in instances or len(instances) < MAX_INSTANCES
            _keep(instances, instance_jkt if apart else OTHERS, at)

    def brought(self, workload: str, instance_jkt: bytes | None, since: datetime) -> set[str]:
        """Labels brought after `since` by that instance, or by any that it is not told apart from; None = by the workload."""
        if instance_jkt is None:
            return set(_since(self.workloads.get(workload, {}), since))
        by_label = self.instances.get(workload, {}).items()
        last = {label: instances.get(instance_jkt, instances.get(OTHERS)) for label, instances in by_label}
        return {label for label, at in last.items() if at is not None and at > since}

    def tidy(self, now: datetime) -> None:
        """Drops what no window reaches any more."""
        before = now - LONGEST_MEMORY
        for workload, labels in list(self.workloads.items()):
            kept = self.workloads[workload] = _since(labels, before)
            # Whatever an instance brought, its workload brought then or later.
            by_label = self.instances.get(workload, {})
            self.instances[workload] = {label: _since(by_label[label], before) for label in by_label if label in kept}
            if not kept:
                del self.workloads[workload], self.instances[workload]

    def copied(self) -> LabelMemory:
        """Another one that remembers the same."""
        instances = {
            workload: {label: dict(of) for label, of in by_label.items()}
            for workload, by_label in self.instances.items()
        }
        return LabelMemory({workload: dict(labels) for workload, labels in self.workloads.items()}, instances)


def _keep(times: dict[Key, datetime], key: Key, at: datetime) -> None:
    times[key] = max(at, times.get(key, at))


def _since(times: Mapping[Key, datetime], before: datetime) -> dict[Key, datetime]:
    return {key: at for key, at in times.items() if at > before}
