"""Speech for acoustic models: resampling, log-mel features, normalising."""
