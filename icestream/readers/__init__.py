"""Events and detectors as others write them: files and messages in, physics types out."""
