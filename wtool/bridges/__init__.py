"""The only room that knows the frameworks: judges of what wtool wrote, in their own processes."""
