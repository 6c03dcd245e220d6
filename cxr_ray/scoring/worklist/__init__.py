"""What a run has to do: inputs listed in shards, selected, and held against the score table. Knows no Ray.

shards.py cuts the inputs (named.py: tables of uris, inventory.py: S3 Inventory), candidates.py selects, parts.py is the
worklist on disk, build.py makes it.
"""

from cxr_ray.scoring.worklist.build import Worklist, build_worklist
from cxr_ray.scoring.worklist.candidates import Candidate, Listing, Selection
from cxr_ray.scoring.worklist.named import ABSENT, is_table
from cxr_ray.scoring.worklist.parts import WORKLIST, Counts, Over, in_turn, list_shard, worklists
from cxr_ray.scoring.worklist.shards import Shard, plan_shards

__all__ = [
    "ABSENT",
    "WORKLIST",
    "Candidate",
    "Counts",
    "Listing",
    "Over",
    "Selection",
    "Shard",
    "Worklist",
    "build_worklist",
    "in_turn",
    "is_table",
    "list_shard",
    "plan_shards",
    "worklists",
]
