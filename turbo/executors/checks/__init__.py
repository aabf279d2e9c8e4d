"""Whether what an agent or program delivered is what was wanted (turbo.domain.check)."""
