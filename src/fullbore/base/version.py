"""The version of fullbore, in one place."""

VERSION = "0.1.0"
