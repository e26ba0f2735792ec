"""Preset studies: one YAML file each."""
