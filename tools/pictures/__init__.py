"""The drawn scenes of the template browser's pictures, one for each prompt of the workflows."""
