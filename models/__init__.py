"""What is measured: networks, and the steps that are timed. Pure torch and torchvision, no pytest."""
