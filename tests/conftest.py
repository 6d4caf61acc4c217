"""Every test runs with the fixtures that the package ships for its users."""

pytest_plugins = ["shim_runc_py.testing.plugin"]
