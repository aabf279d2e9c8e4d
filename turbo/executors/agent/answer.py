"""What an agent is told of the form of its answer."""

BY_TEXT = (
    "Your last message is your answer. It must be one JSON value and nothing else, no text and no code fence around it, and it must "
    "fit this JSON Schema:"
)


def in_words(schema: str) -> str:
    """For the prompt of an agent whose CLI takes no schema. `schema`: its text."""
    return f"{BY_TEXT}\n\n{schema.strip()}"
