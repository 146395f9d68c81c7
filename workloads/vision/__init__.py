"""Images for vision models: decoding, resizing, cropping, normalising."""
