"""Rules about names, shapes, types and ties; they read headers only."""
