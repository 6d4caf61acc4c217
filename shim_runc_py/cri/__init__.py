"""A CRI client with the semantics of the kubelet."""
