"""linux.mounts and linux.unmounts on a real kernel, in mount namespaces of their own."""
