"""Helpers that know nothing of distillation: configs, checkpoints, random states, suggestions."""
