"""What runs inside engines' own environments; never imported by ours."""
