"""What a method produces: a record of optional parts, saved, hashed and counted in one place."""
