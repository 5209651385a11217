"""Rules about values, all from one reading."""
