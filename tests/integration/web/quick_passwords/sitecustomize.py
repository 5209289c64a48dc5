"""Makes the example apps hash passwords quickly. Python imports this module at the start of each of their processes.

A hash as strong as in production takes a third of a second of a core, and tests sign in dozens of times.
"""

import sys

import argon2

argon2.DEFAULT_TIME_COST = 1
argon2.DEFAULT_MEMORY_COST = 64
argon2.DEFAULT_PARALLELISM = 1

if any("django" in argument for argument in sys.orig_argv):
    from django.contrib.auth.hashers import PBKDF2PasswordHasher

    PBKDF2PasswordHasher.iterations = 1
