"""From a trained model and a picture to what is in it."""
