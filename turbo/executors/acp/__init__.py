"""Agents that speak the Agent Client Protocol, each with its profile."""
