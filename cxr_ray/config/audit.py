"""Settings of an audit: how many images it looks at, and how closely."""

from pydantic import Field

from cxr_ray.config.section import Section


class AuditConfig(Section):
    """How the maps of an ensemble are measured against lesions whose place is known."""

    limit: int = Field(400, ge=1, description="Images with a marked lesion, and as many without one for the shortcuts.")
    seed: int = Field(0, ge=0, description="Fixes which patients are taken, the random maps and the draws.")
    num_draws: int = Field(1000, ge=1, description="Bootstrap draws of patients behind each interval.")
    batch_size: int = Field(16, ge=1, description="Images per forward pass.")
    sanity_images: int = Field(64, ge=0, description="Images whose maps are compared with those of random weights.")
    faithfulness_images: int = Field(64, ge=0, description="Images of which pixels are deleted and inserted.")
    faithfulness_steps: int = Field(10, ge=2, le=100, description="Equal steps from no pixel to all of them.")
