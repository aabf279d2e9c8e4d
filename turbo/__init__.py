"""turbo: an event-driven worker fleet for coding agents over PostgreSQL."""

__version__ = "0.1.0"
