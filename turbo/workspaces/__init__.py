"""Workspaces: a git worktree and a branch of its own for each task (docs/workspaces.md)."""
