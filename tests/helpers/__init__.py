"""What several test files need, each once: ``from helpers.files import tree``."""
