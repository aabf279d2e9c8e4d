"""What tests are made of: real servers, workers and programs, stand-ins for what cannot be had, and rigs to step races."""
