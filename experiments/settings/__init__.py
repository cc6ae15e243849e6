"""What a recipe can say."""
