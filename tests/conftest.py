"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# How long an example takes is the machine's matter: a loaded one must not fail a property.
settings.register_profile("llmspell", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("llmspell")
