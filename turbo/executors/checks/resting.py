"""How long a task rests whose check could not be made: what the check needs comes back by itself, and nothing of it can be probed."""

import random

FIRST_SECONDS = 10.0
LONGEST_SECONDS = 600.0


def rest(times: int) -> float:
    """In seconds. `times`: how often in a row, this one included."""
    longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(times - 1, 30))
    return random.uniform(longest / 2, longest)
