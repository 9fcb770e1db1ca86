"""What every test shares: hypothesis without deadlines (the machines are noisy)."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "toque", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("toque")
