"""The Codex CLI, headless."""
