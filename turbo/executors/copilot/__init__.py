"""The GitHub Copilot CLI, headless."""
