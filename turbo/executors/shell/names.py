"""Lists of names that are written as one text."""


def names(text: str) -> frozenset[str]:
    """The words of the text."""
    return frozenset(text.split())
