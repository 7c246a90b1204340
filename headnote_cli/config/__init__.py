"""The configuration: a flat YAML file, its keys, ranges and layers, and old key names."""
