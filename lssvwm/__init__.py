"""Video world models that remember, as Gymnasium environments that agents can train in.

The folders of the repository are the packages `lssvwm.worldmodel`, `lssvwm.envs` and `lssvwm.agents`. Importing this
one registers the ids, so that `gymnasium.make("lssvwm:lssvwm/Dream-v0", checkpoint=...)` finds them; it loads no torch.
"""

__version__ = "0.1.0"

from lssvwm import envs as envs  # its modules ask for the version
