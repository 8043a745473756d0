"""What is trained: each file defines ``Objective``, which reads a batch and a model's output and gives loss terms."""
