"""What all tests have in common: nobody's own defaults."""

import os

os.environ["MESHWISE_CONFIG"] = ""  # of the processes that tests start, too
