"""Label memory: which labels later tasks of an instance, or of its whole workload, may have to start with (design 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from stepgrant_gateway.core.decision import LONGEST_MEMORY

MAX_INSTANCES: Final = 1024
"""Instances of one workload whose labels are remembered apart; any further one counts as the whole workload."""


@dataclass(slots=True)
class LabelMemory:
    """When each label was brought last: by workload, and by instance key of a workload."""

    workloads: dict[str, dict[str, datetime]] = field(default_factory=dict)
    instances: dict[str, dict[bytes, dict[str, datetime]]] = field(default_factory=dict)

    def remember(self, workload: str, instance_jkt: bytes, labels: Iterable[str], at: datetime) -> None:
        """Keeps labels for later tasks of the same instance and of the same workload."""
        instances = self.instances.setdefault(workload, {})
        if instance_jkt not in instances and len(instances) >= MAX_INSTANCES:
            self._forget_instances(workload, at - LONGEST_MEMORY)
            instances = self.instances[workload]
        places = [self.workloads.setdefault(workload, {})]
        if instance_jkt in instances or len(instances) < MAX_INSTANCES:
            places.append(instances.setdefault(instance_jkt, {}))
        for remembered in places:
            remembered.update((label, max(at, remembered.get(label, at))) for label in labels)

    def apart(self, workload: str, instance_jkt: bytes) -> bool:
        """True if what this instance brought is told apart from what its whole workload did.

        An instance that did not fit may have brought anything that its workload has.
        """
        instances = self.instances.get(workload, {})
        return instance_jkt in instances or len(instances) < MAX_INSTANCES

    def brought(self, workload: str, instance_jkt: bytes | None, since: datetime) -> set[str]:
        """Labels brought after `since` by that instance; None = by any of the workload."""
        if instance_jkt is None:
            found = self.workloads.get(workload, {})
        else:
            found = self.instances.get(workload, {}).get(instance_jkt, {})
        return {label for label, at in found.items() if at > since}

    def tidy(self, now: datetime) -> None:
        """Drops what no window reaches any more."""
        before = now - LONGEST_MEMORY
        for workload in list(self.workloads):
            self._forget_instances(workload, before)
            self.workloads[workload] = _since(self.workloads[workload], before)
            if not self.workloads[workload] and not self.instances.get(workload):
                del self.workloads[workload]
                self.instances.pop(workload, None)

    def copied(self) -> LabelMemory:
        """Another one that remembers the same."""
        instances = {
            workload: {jkt: dict(labels) for jkt, labels in of.items()} for workload, of in self.instances.items()
        }
        return LabelMemory({workload: dict(labels) for workload, labels in self.workloads.items()}, instances)

    def _forget_instances(self, workload: str, before: datetime) -> None:
        kept = {jkt: _since(labels, before) for jkt, labels in self.instances.get(workload, {}).items()}
        self.instances[workload] = {jkt: labels for jkt, labels in kept.items() if labels}


def _since(labels: dict[str, datetime], before: datetime) -> dict[str, datetime]:
    return {label: at for label, at in labels.items() if at > before}
