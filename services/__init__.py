"""One package per deployable service; they never import each other."""
