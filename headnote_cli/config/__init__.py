"""One flat YAML file: its keys, their ranges, its layers and what older names became."""
