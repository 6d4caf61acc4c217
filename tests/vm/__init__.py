"""A virtual machine with a unified cgroup v2, for what this machine's kernel does not offer.

    kernel      the distribution's kernel, unpacked and never installed
    initramfs   what the machine boots into; guest/ has the programs inside
    machine     one command run in one machine
    suite       the tests that are marked `cgroup`, for each engine and cgroup driver

`python -m tests.vm -- COMMAND` runs a command, `python -m tests.vm.suite` the tests
(`make test-vm`), which writes docs/cgroup-v2.md.
"""
