"""Which components of a server the protocol is offered for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from protoplane_base import Service
from protoplane_server.kserve.models import ServesModels

_log = logging.getLogger("protoplane.server")

if TYPE_CHECKING:
    from protoplane_server.kserve.service import KserveService


def kserve_services(components: Sequence[Service]) -> tuple[KserveService, ...]:
    """The service for the component that serves models; none where there is no such one.

    The protocol knows models and no components, so of several components the first has it, and
    the log says so.
    """
    serving = [each for each in components if isinstance(each, ServesModels)]
    if not serving:
        return ()
    if len(serving) > 1:
        names = ", ".join(type(each).__name__ for each in serving)
        _log.warning(
            "%s all serve models; KServe's protocol shows those of the first. Serve the others "
            "apart to have them shown too",
            names,
        )
    # It needs numpy, which whoever has a backend has.
    from protoplane_server.kserve.service import KserveService

    return (KserveService(serving[0]),)
