"""The mannequin studio: synthetic figures that dance, with the exact surface coordinates of every pixel."""
