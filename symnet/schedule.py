"""The learning rate's decay."""


def poly_rate(rate: float, step: int, steps: int, power: float) -> float:
    """rate * (1 - step / steps) ** power, the polynomial decay of the PSPNet family."""
    return rate * (1 - step / steps) ** power
