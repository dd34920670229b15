"""Clouds for the tests: fakes of AWS, Google Cloud and Azure whose disks have real bytes.

`python3 -m clouds up` starts them. README.md says how to use them and how to add one.

What it is not: a substitute for the real clouds. It keeps their documented states, errors and limits, as far as backups
meet them, and nothing else of them.
"""
