"""From a URL to what is asked of Kubernetes, and where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from protoplane_base import Code, PlaneError

COMPONENT_LABEL = "protoplane.dev/component"
"""What says which component a Service runs, where the URL names no other."""

ALL_NAMESPACES = "*"

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|\*|")
_QUERY = frozenset({"selector", "component-label", "kubeconfig", "context"})


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """What a URL asks for.

    Attributes:
        namespace: Of Kubernetes; ``*`` for all, empty for the pod's own, or the kubeconfig's.
        selector: Label selector of the EndpointSlices.
        label: The label, or annotation, that names the component.
        kubeconfig: File that says where the cluster is; empty for the usual place.
        context: The context in it; empty for its current one.
    """

    namespace: str = ""
    selector: str = COMPONENT_LABEL
    label: str = COMPONENT_LABEL
    kubeconfig: str = ""
    context: str = ""

    @classmethod
    def parse(cls, text: str) -> KubernetesSettings:
        """Read what follows ``kubernetes:`` in a URL.

        Raises:
            PlaneError: INVALID_ARGUMENT; it cannot be asked for.
        """
        namespace, _, query = text.partition("?")
        namespace = unquote(namespace)
        asked = dict(parse_qsl(query, keep_blank_values=True))
        if not _NAMESPACE.fullmatch(namespace) or not _QUERY.issuperset(asked):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{'kubernetes:' + text!r} cannot be asked for; write kubernetes:[namespace], or "
                "kubernetes:* for all, with ?selector=, &component-label=, &kubeconfig= and "
                "&context=",
            )
        label = asked.get("component-label") or COMPONENT_LABEL
        return cls(
            namespace,
            # Those that name a component, where nothing else is asked for.
            asked.get("selector", label),
            label,
            asked.get("kubeconfig", ""),
            asked.get("context", ""),
        )
