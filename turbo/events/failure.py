"""Why a delivery failed."""


class DeliveryFailed(Exception):
    """For people, in one line, without secrets."""
