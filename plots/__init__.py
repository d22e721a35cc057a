"""Pictures of pyramids: drawn with matplotlib where the host has it, else with Pillow, which it always has."""
