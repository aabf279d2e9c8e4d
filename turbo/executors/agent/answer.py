"""What an agent is told of the form of its answer."""

BY_TEXT = (
    "Your last message is your answer. It must be one JSON value and nothing else, no text and no code fence around it, and it must "
    "fit this JSON Schema:"
)
