"""What all agents have in common: prompts, lines of output, where a CLI is, and the run itself."""
