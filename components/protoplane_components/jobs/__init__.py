"""``protoplane/jobs``: long work, such as making images, for any number of worker processes.

    protoplane serve protoplane_components.jobs:Jobs
    protoplane jobs work

`PROTOPLANE_JOB_SLOTS` says how many jobs a served process works on itself.
"""

from protoplane_base import MissingExtraError

try:
    from protoplane_components.jobs.component import Jobs
    from protoplane_components.jobs.generator import Image, ImageGenerator, Step
    from protoplane_components.jobs.settings import JobSettings
    from protoplane_components.jobs.sprites import SpriteGenerator
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    raise MissingExtraError("inference", "the jobs component") from error

__all__ = ["Image", "ImageGenerator", "JobSettings", "Jobs", "SpriteGenerator", "Step"]
