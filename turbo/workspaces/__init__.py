"""Workspaces: each task gets a git worktree and a branch (docs/workspaces.md)."""
