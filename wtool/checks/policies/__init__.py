"""Rules that the release policy sets; without a policy they find nothing."""
