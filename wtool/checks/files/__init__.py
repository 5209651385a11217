"""Rules about the files themselves: what they name, waste, leak, and whether they are intact."""
