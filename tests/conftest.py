"""What all tests have in common: nobody's own defaults, and no network."""

import os

os.environ["MESHWISE_CONFIG"] = ""  # of the processes that tests start, too
os.environ["HF_HUB_OFFLINE"] = "1"  # a hub that cannot be reached takes seconds to say so
