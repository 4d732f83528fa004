"""Drivers that own the training loop: several fits that act as one."""
